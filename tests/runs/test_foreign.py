"""Checkpoints of other programs are refused with a one-line error that names the likely program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hjepa.errors import CheckpointError
from hjepa.runs.checkpoint import read_checkpoint, save_checkpoint

BLOCK = {"blocks.0.attn.qkv.weight": torch.zeros(3, 1), "cls_token": torch.zeros(1, 1, 8)}


class Unknown:
    """A class whose pickle must not be executed when the file is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    text = str(error.value)
    assert "\n" not in text
    assert text.isprintable()
    assert str(path) in text
    return text


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    ("state", "name"),
    [
        ({"model": BLOCK, "args": argparse.Namespace(lr=1)}, "MAE"),
        ({"encoder": {"module.pos_embed": torch.zeros(1)}, "target_encoder": {}, "epoch": 300}, "I-JEPA"),
        ({"student": {}, "teacher": {}, "args": argparse.Namespace()}, "DINO"),
        ({"state_dict": BLOCK, "pytorch-lightning_version": "2.5"}, "Lightning"),
        (BLOCK, "timm"),
        ({"layer1.0.conv1.weight": torch.zeros(1)}, "ResNet"),
        ({"weights": torch.zeros(1), "other": Unknown()}, "another program"),
    ],
)
def test_a_foreign_checkpoint_is_recognised_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], name: str, archive: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(state, tmp_path / "weights.pth", _use_new_zipfile_serialization=archive)
    torch.save({"x": torch.zeros(1)}, tmp_path / "neighbour.pth")
    text = refusal(tmp_path / "weights.pth")
    assert name in text
    assert next(iter(state)) in text
    assert "hjepa train" in text
    # Another foreign file must not be suggested.
    assert "neighbour.pth" not in text
    assert not (tmp_path / "executed").exists()


def test_safetensors_files_are_recognised(tmp_path: Path) -> None:
    save_file(BLOCK, tmp_path / "model.safetensors")
    assert "timm" in refusal(tmp_path / "model.safetensors")


def test_other_files_and_damaged_checkpoints_have_their_own_errors(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"text")
    assert "not a PyTorch file" in refusal(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"\x80\x02 nothing")
    assert "not a PyTorch file" in refusal(tmp_path / "b.pth")
    own = {"model_state_dict": BLOCK, "config": {}, "step": 1}
    save_checkpoint(tmp_path / "own.pth", own)
    assert "own.pth" in refusal(tmp_path / "a.pth")
    content = bytearray((tmp_path / "own.pth").read_bytes())
    content[200] ^= 1
    (tmp_path / "own.pth").write_bytes(content)
    assert "damaged" in refusal(tmp_path / "own.pth")
