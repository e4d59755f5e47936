"""Encoders of timm and torchvision beside the trained one, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hjepa.errors import UserError
from hjepa.evaluation import evaluate, format_table

timm = pytest.importorskip("timm")


def read(run_dir: Path, tmp_path: Path, *controls: str, **keys: Any) -> dict[str, Any]:
    return evaluate(
        run_dir,
        eval_type=["linear_probe", "knn"],
        controls=controls,
        device="cpu",
        output=tmp_path / "r.json",
        overrides=["evaluation.train_images=40", "evaluation.test_images=12"],
        k_values=[1],
        **keys,
    )


def test_random_encoders_are_rows_of_the_table_and_named(run_dir: Path, tmp_path: Path) -> None:
    names = ("timm:test_vit@random", "torchvision:shufflenet_v2_x0_5@random")
    results = read(run_dir, tmp_path, *names)
    for part in (results["linear_probe"], results["knn"], results["linear_probe"]["calibration"]):
        assert set(names) <= part.keys()
    assert [entry["name"] for entry in results["controls"]] == list(names)
    assert [entry["weights"] for entry in results["controls"]] == ["random", "random"]
    assert results["controls"][0]["image_size"] == [160, 160]
    table = format_table(results)
    assert all(f"{name}: weights random" in table for name in names)
    assert "raw pixels" not in table


def test_weights_of_a_file_are_used_and_seeds_repeat(run_dir: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model("test_vit", pretrained=False)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    from_file = f"timm:test_vit@{tmp_path / 'weights.pth'}"
    first = read(run_dir, tmp_path, from_file, "timm:test_vit@random")
    again = read(run_dir, tmp_path, "timm:test_vit@random")
    assert (
        first["linear_probe"]["calibration"]["timm:test_vit@random"]
        == again["linear_probe"]["calibration"]["timm:test_vit@random"]
    )
    assert (
        first["linear_probe"]["calibration"][from_file]["nll"]
        != first["linear_probe"]["calibration"]["timm:test_vit@random"]["nll"]
    )


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ("tim:resnet18", "controls: unknown value 'tim:resnet18'; use untrained, pixels, pca, timm:NAME"),
        ("timm:", "names no model"),
        ("timm:vit_tiny_patch16_225@random", "did you mean vit_tiny_patch16_224"),
        ("torchvision:resnet19@random", "torchvision has no model 'resnet19'; did you mean resnet"),
        ("torchvision:squeezenet1_0@random", "has no linear classifier"),
        ("timm:test_vit@/nowhere.pth", "/nowhere.pth is no file of weights"),
        ("torchvision:resnet18@NOPE", "NOPE is no file of weights"),
    ],
)
def test_mistakes_are_one_line(run_dir: Path, tmp_path: Path, control: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(run_dir, tmp_path, control)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r.json").exists()


def test_weights_of_another_model_are_refused(run_dir: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"lacks the weight .* it is of another model"):
        read(run_dir, tmp_path, f"timm:test_vit@{tmp_path / 'other.pth'}")
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as weights"):
        read(run_dir, tmp_path, f"torchvision:shufflenet_v2_x0_5@{tmp_path / 'broken.pth'}")
