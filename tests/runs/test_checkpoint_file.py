"""The checkpoint file: written atomically, readable by any PyTorch program, and with damage always detected."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import Run

from hjepa.errors import CheckpointError, UserError
from hjepa.runs.checkpoint import (
    FORMAT_VERSION,
    copy_checkpoint,
    read_checkpoint,
    read_header,
    require_space,
    save_checkpoint,
    snapshot,
)
from hjepa.runs.locate import newest_usable
from hjepa.training import load_run

OLD = Path(__file__).parent / "files" / "format_1.pth"


def state(step: int = 3, run: str = "a", size: int = 100) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {
        "epoch": 1,
        "step": step,
        "loss": 0.5,
        "model_state_dict": {"w": torch.randn(size, generator=generator), "half": torch.ones(3, dtype=torch.bfloat16)},
        "optimizer_state_dict": {"state": {}},
        "config": {},
        "data": {"channels": 3},
        "run": run,
    }


def test_a_checkpoint_round_trips_and_loads_with_plain_pytorch(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    save_checkpoint(file, state())
    assert torch.equal(read_checkpoint(file)["model_state_dict"]["w"], state()["model_state_dict"]["w"])
    assert torch.load(file, weights_only=True)["step"] == 3
    header = read_header(file)
    assert header is not None
    assert (header.format, header.step, header.run) == (FORMAT_VERSION, 3, "a")
    copy_checkpoint(file, tmp_path / "b.pth")
    assert (tmp_path / "b.pth").read_bytes() == file.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"a.pth", "b.pth"}


def test_every_flipped_bit_and_every_truncation_is_detected(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    save_checkpoint(file, state(size=10))
    whole = file.read_bytes()
    steps = range(0, len(whole), 37)
    for position in [*steps, *range(len(whole) - 200, len(whole))]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read_checkpoint(file)
    for length in steps:
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as error:
            read_checkpoint(file)
        assert "\n" not in str(error.value)
    file.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError):
        read_checkpoint(file)


def test_a_snapshot_does_not_change_with_its_source() -> None:
    live = state()
    copied = snapshot({**live, "pair": (torch.ones(2), 1)})
    before = live["model_state_dict"]["w"].clone()
    live["model_state_dict"]["w"].zero_()
    assert torch.equal(copied["model_state_dict"]["w"], before)
    assert isinstance(copied["pair"], tuple)


def test_a_failed_write_keeps_the_older_file(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    save_checkpoint(file, state(1))
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"a\.pth: the checkpoint cannot be written") as error:
            save_checkpoint(file, state(2, size=10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MB are free"):
        require_space(tmp_path, 1 << 60, tmp_path / "last.pth")


def test_the_newest_usable_file_of_this_run_is_found(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / f"checkpoint_step_{step}.pth", state(step))
    save_checkpoint(tmp_path / "last.pth", state(9, run="another"))
    start = newest_usable(tmp_path, "a")
    assert start is not None
    assert start.state["step"] == 3
    assert "last.pth: belongs to another run; using " in start.notes[0]
    (tmp_path / "checkpoint_step_3.pth").write_bytes(b"")
    start = newest_usable(tmp_path, "a")
    assert start is not None
    assert start.state["step"] == 2
    assert any("checkpoint_step_3.pth: empty" in note for note in start.notes)
    assert newest_usable(tmp_path / "nothing", "a") is None


def test_a_file_of_format_1_is_read_and_resumed(run: Run, tmp_path: Path) -> None:
    assert read_header(OLD) is None
    assert torch.load(OLD, weights_only=True)["format_version"] == 1
    migrated = read_checkpoint(OLD)
    assert migrated["format_version"] == FORMAT_VERSION
    assert migrated["micro_batch"] == {"batch_size": 16, "accumulation_steps": 1}
    assert load_run(OLD, device="cpu").step == 3
    keys = {
        "model.encoder_type": "vit_tiny_patch8_16",
        "model.embed_dim": 16,
        "model.depth": 1,
        "model.num_hierarchies": 1,
        "model.predictor.embed_dim": 8,
        "model.mlp_ratio": 2.0,
        "model.predictor.mlp_ratio": 2.0,
        "model.num_heads": 1,
        "masking.num_masks": 1,
        "data.subset": 48,
    }
    seen = run(keys, resume=str(OLD))
    assert seen.outcome.step == 6
    assert seen.records[0]["step"] == 4
    assert torch.load(seen.outcome.checkpoint, weights_only=True)["format_version"] == FORMAT_VERSION


@pytest.mark.parametrize("position", [0.2, 0.5, 0.8])
def test_damage_to_a_file_of_format_1_is_detected(tmp_path: Path, position: float) -> None:
    data = bytearray(OLD.read_bytes())
    # The largest entries are weights; bytes between entries are padding without content.
    at = int(len(data) * position)
    at = next(i for i in range(at, len(data)) if data[i] not in (0, ord("Z")) and data[i : i + 64].count(0) < 8)
    data[at] ^= 4
    file = tmp_path / "old.pth"
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(file)


def test_a_file_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    save_checkpoint(file, {**state(), "format_version": FORMAT_VERSION + 1})
    with pytest.raises(CheckpointError, match="newer version"):
        read_checkpoint(file)
