"""Fine-tuning, robustness, segmentation and detection as protocols of an evaluation."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hjepa.config.protocols import SegmentationConfig
from hjepa.data import ImageDataset, ListedTargets
from hjepa.data.dataset import MemoryPixels
from hjepa.data.dense import DenseSet
from hjepa.errors import UserError
from hjepa.evaluation import evaluate
from hjepa.evaluation.corruptions import KINDS
from hjepa.evaluation.dense.maps import PixelMaps
from hjepa.evaluation.dense.segmentation import segmentation
from hjepa.evaluation.features import View
from hjepa.evaluation.table import blocks

SMALL = {
    "evaluation.fine_tune.images": 48,
    "evaluation.fine_tune.test_images": 20,
    "evaluation.fine_tune.epochs": 1,
    "evaluation.fine_tune.batch_size": 16,
    "evaluation.fine_tune.blocks": 1,
    "evaluation.robustness.images": 8,
    "evaluation.segmentation.train_images": 40,
    "evaluation.segmentation.test_images": 8,
    "evaluation.segmentation.epochs": 2,
    "evaluation.detection.train_images": 16,
    "evaluation.detection.test_images": 4,
    "evaluation.detection.epochs": 1,
}
TYPES = "fine_tune,robustness,segmentation,detection"


@pytest.fixture(scope="module")
def results(run_dir, tmp_path_factory):
    pytest.importorskip("pycocotools")
    folder = tmp_path_factory.mktemp("results")
    before = (run_dir / "checkpoints" / "last.pth").read_bytes()
    found = evaluate(run_dir, eval_type=TYPES, device="cpu", output=folder / "r.json", overrides=SMALL)
    assert json.loads((folder / "r.json").read_text()) == found
    assert (run_dir / "checkpoints" / "last.pth").read_bytes() == before
    return found


def test_each_has_trained_beside_its_controls(results):
    for variant in ("full", "last_blocks"):
        assert all(0 <= results["fine_tune"][variant][name] <= 1 for name in ("trained", "untrained"))
    assert (results["fine_tune"]["images"], results["fine_tune"]["test_images"]) == (48, 20)
    controls = ("trained", "untrained", "pixels")
    assert all(set(results["robustness"][key]) == set(controls) for key in ("clean", "mean", "drop"))
    assert [entry["kind"] for entry in results["robustness"]["kinds"]] == list(KINDS)
    assert all(len(entry["severities"]) == 5 for entry in results["robustness"]["kinds"])
    segmented = results["segmentation"]
    assert all(0 <= segmented[head][name] <= 1 for head in ("linear", "decoder") for name in controls)
    assert [entry["level"] for entry in segmented["linear"]["levels"]] == [0, 1]
    assert (segmented["split"], segmented["images"]) == ("test", 8)
    assert set(results["detection"]["ap"]) == {"trained", "untrained"}
    assert all(part["protocol"] for part in (results[name] for name in TYPES.split(",")))


def test_the_mean_over_corruptions_is_that_of_the_cells(results):
    part = results["robustness"]
    cells = [scores["trained"] for entry in part["kinds"] for scores in entry["severities"]]
    assert part["mean"]["trained"] == pytest.approx(np.mean(cells))
    if part["clean"]["trained"]:
        assert part["drop"]["trained"] == pytest.approx(1 - part["mean"]["trained"] / part["clean"]["trained"])


def test_they_print_one_table_each(results):
    titles = [block.title.split(":")[0] for block in blocks(results)]
    assert titles == ["fine-tuning", "robustness", "segmentation", "detection"]
    for block in blocks(results):
        assert all(len(row) == len(block.header) for row in block.rows)


def test_they_repeat_exactly(results, run_dir, tmp_path):
    again = evaluate(run_dir, eval_type=TYPES, device="cpu", output=tmp_path / "r.json", overrides=SMALL)
    for name in TYPES.split(","):
        assert again[name] == results[name], name


def test_the_supervised_control_is_a_row_of_the_table(run_dir, tmp_path):
    found = evaluate(
        run_dir,
        eval_type="linear_probe",
        controls=["untrained", "supervised"],
        device="cpu",
        output=tmp_path / "r.json",
        overrides={"evaluation.supervised.share": 2},
    )
    assert 0 <= found["linear_probe"]["supervised"] <= 1
    (about,) = found["controls"]
    # Four steps of 16 images, twice.
    assert about["images_seen"] == 128
    assert about["name"] == "supervised"
    with pytest.raises(UserError, match="supervised takes no model"):
        evaluate(run_dir, controls=["supervised:resnet18"], device="cpu", output=tmp_path / "r.json")


def test_validation_is_read_instead_of_test(run_dir, tmp_path):
    found = evaluate(
        run_dir,
        split="validation",
        eval_type="segmentation,fine_tune",
        device="cpu",
        output=tmp_path / "r.json",
        overrides=SMALL,
    )
    assert found["segmentation"]["split"] == "validation"
    assert "trained" in found["fine_tune"]["full"]


def test_without_labels_they_are_skipped_but_dense_tasks_are_not(run_dir, tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(30):
        picture = Image.fromarray(generator.integers(0, 255, (18, 22, 3), dtype=np.uint8))
        picture.save(tmp_path / "pictures" / f"{number}.png")
    found = evaluate(
        run_dir,
        dataset="folder",
        data_path=tmp_path / "pictures",
        eval_type="fine_tune,robustness,segmentation",
        device="cpu",
        output=tmp_path / "r.json",
        overrides=SMALL,
    )
    assert found["fine_tune"] == found["robustness"] == {"skipped": "no labels"}
    assert "trained" in found["segmentation"]["linear"]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("segmentation", {"evaluation.segmentation.dataset": "voc"}, "evaluation.segmentation.data_path: missing"),
        ("segmentation", {"evaluation.segmentation.dataset": "cityscapes"}, "invalid value 'cityscapes'"),
        (
            "detection",
            {"evaluation.detection.dataset": "coco", "evaluation.detection.data_path": "/gone"},
            "/gone is not a folder",
        ),
        ("fine_tune", {"evaluation.fine_tune.lr": 0}, "evaluation.fine_tune.lr: invalid value 0"),
        ("fine_tune", {"evaluation.fine_tune.epoch": 1}, "did you mean evaluation.fine_tune.epochs?"),
    ],
)
def test_bad_values_are_one_line_errors(run_dir, tmp_path, kind, changes, message):
    with pytest.raises(UserError) as error:
        evaluate(run_dir, eval_type=kind, device="cpu", output=tmp_path / "r.json", overrides=changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r.json").exists()


def checkerboard(count: int, split, seed: int) -> ImageDataset:
    """Pictures of 4 x 4 flat squares, whose class is their brightness."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 3, (count, 4, 4), generator=generator)
    masks = classes.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2).to(torch.int32)
    images = (masks * 100).to(torch.uint8)[:, None].expand(-1, 3, -1, -1).contiguous()
    names = [f"{split}/{number}" for number in range(count)]
    return ImageDataset(
        MemoryPixels(images),
        name="squares",
        split=split,
        channels=3,
        identifiers=names,
        targets=ListedTargets("dense", masks),
    )


def test_heads_learn_what_the_features_say():
    dense = DenseSet("squares", "squares", checkerboard(70, "train", 0), checkerboard(20, "test", 1), ("a", "b", "c"))
    view = View((16, 16), (0.5,) * 3, (0.25,) * 3, torch.device("cpu"))
    found = segmentation(
        {"trained": PixelMaps((4, 4), (4, 4))},
        dense,
        "test",
        settings=SegmentationConfig(epochs=20, lr=2e-2),
        view=view,
        seed=0,
    )
    # The classes are a nonlinear function of brightness only at the borders of squares, where maps are interpolated.
    # Guessing scores below 0.2.
    assert found["decoder"]["trained"] > 0.7
    assert found["linear"]["trained"] > 0.5


def test_a_mask_with_a_class_too_many_is_named():
    dense = DenseSet("squares", "squares", checkerboard(20, "train", 0), checkerboard(20, "test", 1), ("a", "b"))
    view = View((16, 16), (0.5,) * 3, (0.25,) * 3, torch.device("cpu"))
    with pytest.raises(UserError, match="a mask has the value 2, but there are 2 classes"):
        segmentation(
            {"trained": PixelMaps((4, 4), (4, 4))},
            dense,
            "test",
            settings=SegmentationConfig(epochs=1),
            view=view,
            seed=0,
        )
