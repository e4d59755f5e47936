"""Multi-process runs: equal to one process, with DDP and FSDP, across checkpoints, and when one process fails."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.conftest import tiny_config

from hjepa.config import load_config
from hjepa.errors import CheckpointError, UserError
from hjepa.runs.locate import find_checkpoint, newest_usable, read_whole
from hjepa.training import load_run, run_training
from hjepa.training.distributed.strategy import check_strategy

PROGRAM = Path(__file__).parent / "process_program.py"
FSDP = {"distributed.strategy": "fsdp"}
# The order of summation depends on the number of processes; AdamW turns the rounding into up to this much per step.
CLOSE = 5e-5
HALF, ALL = 3, 6


def start(
    world: int, runs: Sequence[Mapping[str, Any]], launcher: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        *launcher,
        str(PROGRAM),
        str(world),
        "0" if launcher else str(port),
        json.dumps(list(runs)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)


def state_of(folder: Path) -> dict[str, Any]:
    return read_whole(find_checkpoint(folder))


def distance(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """Largest difference of any weight, including the target encoder's, or optimiser moment."""
    weights = [(a["model_state_dict"][n] - b["model_state_dict"][n]).abs().max() for n in a["model_state_dict"]]
    first, second = (state["optimizer_state_dict"]["state"] for state in (a, b))
    assert first.keys() == second.keys()
    moments = [(first[i][n] - second[i][n]).abs().max() for i in first for n in first[i]]
    return float(torch.stack([*weights, *moments]).max())


def infonce(images: int) -> dict[str, Any]:
    return {"loss.type": "infonce", "loss.candidate_images": images, "loss.candidate_cells": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs used by the tests below, in one folder."""
    home = tmp_path_factory.mktemp("processes")
    settings = {
        "training.max_steps": ALL,
        "checkpoint.save_every_steps": HALF,
        "logging.log_frequency": 1,
        "evaluation.final": False,
        "loss.variance_loss_weight": 0.1,
        "loss.covariance_loss_weight": 0.1,
    }

    def config(images: int, **more: Any) -> str:
        file = home / f"{images}{''.join(more)}.yaml"
        tree = tiny_config({**settings, "data.batch_size": images, **more}).model_dump(mode="json")
        file.write_text(yaml.safe_dump(tree))
        return str(file)

    def run(name: str, images: int, changes: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        return {"config": config(images), "folder": str(home / name), "changes": dict(changes or {}), **more}

    def alone(name: str, changes: Mapping[str, Any] | None = None, resume: str | None = None) -> None:
        run_training(load_config(config(32), changes or {}), output_dir=home / name, resume=resume, console=False)

    alone("one")
    alone("one-half", {"training.max_steps": HALF})
    plain = {"loss.variance_loss_weight": 0, "loss.covariance_loss_weight": 0}
    alone("one-plain", plain)
    # Blocks of candidates that span two processes, and blocks that do not.
    across, within = ({**plain, **infonce(images)} for images in (24, 16))
    alone("one-infonce", {**across, "masking.sets_per_image": 2})
    alone("one-infonce-16", within)
    two = start(
        2,
        [
            run("ddp", 16),
            run("fsdp", 16, FSDP),
            run("fsdp-half", 16, {**FSDP, "training.max_steps": HALF}),
            run("one-half", 16, FSDP, resume="auto"),
            run("fsdp-infinite", 16, {**FSDP, "training.max_steps": HALF + 1}, infinite=[1, HALF + 1]),
            run("ddp-memory", 16, plain, memory=[1, 4]),
            run("ddp-infonce", 16, {**across, "masking.sets_per_image": 2}),
            run("ddp-infonce-memory", 16, within, memory=[1, 8]),
            run("ddp-half-precision", 16, {"training.use_amp": True}),
            run("fsdp-half-precision", 16, {**FSDP, "training.use_amp": True}),
        ],
    )
    assert two.returncode == 0, two.stderr
    for name in ("fsdp-half-one", "fsdp-half-four", "fsdp-damaged"):
        shutil.copytree(home / "fsdp-half", home / name)
    alone("fsdp-half-one", resume="auto")
    four = start(4, [run("fsdp-half-four", 8, FSDP, resume="auto"), run("ddp-four", 8)])
    assert four.returncode == 0, four.stderr
    return home


@pytest.mark.parametrize("name", ["ddp", "fsdp", "one-half", "fsdp-half-one", "fsdp-half-four", "ddp-four"])
def test_any_number_of_processes_gives_the_result_of_one(runs: Path, name: str) -> None:
    one, other = state_of(runs / "one"), state_of(runs / name)
    assert one["step"] == other["step"] == ALL
    assert distance(one, other) < CLOSE
    # The weights have changed since the middle of the run.
    assert distance(one, state_of(runs / "fsdp-half")) > 10 * CLOSE
    losses = [
        [
            json.loads(line)["loss"]
            for line in (runs / n / "metrics.jsonl").read_text().splitlines()
            if '"train"' in line
        ]
        for n in ("one", name)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("alone", "together"), [("one-infonce", "ddp-infonce"), ("one-infonce-16", "ddp-infonce-memory")]
)
def test_infonce_has_the_same_candidates_in_any_number_of_processes(runs: Path, alone: str, together: str) -> None:
    # A process has fewer images than a prediction needs; in the second pair only after memory ran out.
    assert distance(state_of(runs / alone), state_of(runs / together)) < CLOSE
    assert distance(state_of(runs / "one-infonce"), state_of(runs / "one-infonce-16")) > 10 * CLOSE
    assert "images of a micro-batch now compare" not in (runs / together / "training.log").read_text()


def test_ddp_and_fsdp_agree_in_half_precision(runs: Path) -> None:
    whole, spread = state_of(runs / "ddp-half-precision"), state_of(runs / "fsdp-half-precision")
    assert distance(whole, spread) < CLOSE
    assert distance(whole, state_of(runs / "one")) > 0


def test_sharded_checkpoints_are_divided_and_load_like_any_other(runs: Path) -> None:
    folder = runs / "fsdp" / "checkpoints" / "last.sharded"
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    assert len(sizes) == 2
    assert max(sizes) < 0.6 * sum(sizes)
    ours, whole = load_run(runs / "fsdp").model, load_run(runs / "one").model
    images = torch.rand(2, 3, *ours.geometry.image_size)
    assert torch.allclose(ours.extract_features(images), whole.extract_features(images), atol=1e-3)


def test_an_infinite_loss_on_one_process_skips_the_update_on_all(runs: Path) -> None:
    spoilt, before = state_of(runs / "fsdp-infinite"), state_of(runs / "fsdp-half")
    assert (spoilt["step"], spoilt["skipped"]) == (HALF + 1, 1)
    assert distance(spoilt, before) == 0


@pytest.mark.parametrize("harm", ["cut", "flipped", "missing", "state"])
def test_a_damaged_shard_is_named_and_the_previous_checkpoint_is_used(runs: Path, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(runs / "fsdp" / "checkpoints", folder)
    last = folder / "last.sharded"
    file = last / "state.pth" if harm == "state" else sorted(last.glob("*.safetensors"))[1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-100] if harm == "cut" else content)
    with pytest.raises(CheckpointError, match=r"last\.sharded.*damaged") as error:
        read_whole(last)
    assert "\n" not in str(error.value)
    # Step 6 also has a periodic checkpoint.
    found = newest_usable(folder, "")
    assert found is not None
    assert (found.checkpoint.name, found.state["step"]) == ("checkpoint_step_6.sharded", ALL)
    assert "last.sharded" in found.notes[0]
    for other in folder.glob("*.sharded"):
        (other / "state.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="empty"):
        newest_usable(folder, "")


def test_processes_take_smaller_micro_batches_together(runs: Path) -> None:
    state = state_of(runs / "ddp-memory")
    assert state["micro_batch"] == {"batch_size": 4, "accumulation_steps": 4}
    # Without loss terms that compare images, the runs are equal.
    assert distance(state, state_of(runs / "one-plain")) < CLOSE
    log = (runs / "ddp-memory" / "training.log").read_text()
    assert "out of memory in another process with data.batch_size=16" in log
    assert "2 processes x 16 images x 1 micro-batches = 32 images per update" in log
    assert "continuing with micro-batches of 4 x 4 instead of 8 x 2, still 32 images per update" in log


def test_a_killed_process_ends_the_others_with_a_one_line_error(runs: Path, tmp_path: Path) -> None:
    config = next(runs.glob("16*.yaml"))
    result = start(2, [{"config": str(config), "folder": str(tmp_path / "run"), "dies": [1, ALL], "fails": True}])
    assert result.returncode == 0, result.stderr
    assert "process 0: LostProcessError 1: process 0: another process has ended" in result.stdout
    assert "--resume auto" in result.stdout
    assert state_of(tmp_path / "run")["step"] == HALF


def test_a_run_restarted_by_torchrun_ends_bit_equal(runs: Path, tmp_path: Path) -> None:
    config = next(runs.glob("16*.yaml"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    result = start(2, [{"config": str(config), "folder": str(tmp_path / "run"), "dies": [1, ALL]}], launcher)
    assert result.returncode == 0, result.stderr
    assert distance(state_of(tmp_path / "run"), state_of(runs / "ddp")) == 0
    assert "resuming from step 3" in (tmp_path / "run" / "training.log").read_text()


def test_unsupported_fsdp_settings_are_refused() -> None:
    for key, value in {"training.optimizer": "muon", "training.amp_dtype": "fp16"}.items():
        config = tiny_config({**FSDP, key: value, "training.use_amp": True})
        with pytest.raises(UserError, match=key):
            check_strategy(config, 2)
        check_strategy(config, 1)
