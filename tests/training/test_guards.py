"""Failures during a run: non-finite numbers, out of memory, lost workers, full disks, a second run in the same folder."""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import Run, run_tiny, tiny_config
from torch import Tensor, nn

from hjepa.data import TrainLoader, build_dataset
from hjepa.errors import UserError
from hjepa.methods import HJepa, build_method
from hjepa.models.encoder import VisionTransformer
from hjepa.models.hjepa import HJEPA
from hjepa.models.predictor import Predictor
from hjepa.runs.checkpoint import read_checkpoint
from hjepa.runs.lock import FolderLock
from hjepa.training import run_training
from hjepa.training.loggers import JsonLines
from hjepa.training.out_of_memory import is_out_of_memory, next_rung

# Two updates succeed, the third is made non-finite.
BEFORE = 2


@contextmanager
def spoilt(stage: str, every: bool = False) -> Iterator[None]:
    """Put a NaN into one stage of the third training step, with PyTorch's own hooks on the real modules."""
    steps = 0

    def before(module: nn.Module, args: tuple[Any, ...]) -> Any:
        nonlocal steps
        if not isinstance(module, HJEPA) or not module.training:
            return None
        steps += 1
        if stage == "image" and now():
            images = args[0].clone()
            images[5, 0, 0, 0] = float("nan")
            # In place, so that the loop's batch is broken too, as it would be by a broken image.
            args[0].copy_(images)
        return None

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not now():
            return None
        if stage == "target" and isinstance(module, VisionTransformer) and not module.training:
            return {depth: tap * float("nan") for depth, tap in output.items()}
        if stage == "prediction" and isinstance(module, Predictor):
            return {level: value * (float("inf") if level == 1 else 1.0) for level, value in output.items()}
        if stage == "gradient" and isinstance(module, Predictor):
            for value in output.values():
                value.register_hook(lambda gradient: gradient * float("nan"))
        return None

    def now() -> bool:
        return steps > BEFORE if every else steps == BEFORE + 1

    handles = [
        nn.modules.module.register_module_forward_pre_hook(before),
        nn.modules.module.register_module_forward_hook(after),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def same_learning_state(a: dict[str, Any], b: dict[str, Any]) -> None:
    for name, value in a["model_state_dict"].items():
        assert torch.equal(value, b["model_state_dict"][name]), name
    members = [s["optimizer_state_dict"].get("members", [s["optimizer_state_dict"]]) for s in (a, b)]
    for one, other in zip(*members, strict=True):
        for index, values in one["state"].items():
            for name, value in values.items():
                assert torch.equal(value, other["state"][index][name])


@pytest.mark.parametrize("stage", ["image", "target", "prediction", "gradient"])
@pytest.mark.parametrize("keys", [{}, {"training.use_amp": True, "training.amp_dtype": "fp16"}])
def test_non_finite_values_change_neither_weights_nor_target(run: Run, stage: str, keys: dict[str, Any]) -> None:
    if keys and stage == "gradient":
        pytest.skip("a gradient alone that overflows is how the scale of float16 is found")
    clean = run({**keys, "training.max_steps": BEFORE})
    with spoilt(stage):
        seen = run({**keys, "training.max_steps": BEFORE + 1})
    same_learning_state(clean.state, seen.state)
    assert seen.state["skipped"] == clean.state["skipped"] + 1
    assert "update skipped" in seen.log
    report = json.loads((seen.folder / "non_finite" / f"step_{BEFORE:08d}_rank0.json").read_text())
    assert report["step"] == BEFORE
    assert report["stage"] == stage
    assert report["levels"] == {"image": [], "target": [0, 1], "prediction": [1], "gradient": []}[stage]
    images = [image for micro in report["micro_batches"] for image in micro["images"]]
    assert len(images) == 16
    assert all(image["file"].startswith("shapes/train/") for image in images)
    if stage == "image":
        assert [image["finite"] for image in images] == [row != 5 for row in range(16)]
    if stage == "gradient":
        assert report["parameters"]


def test_a_non_finite_update_is_skipped_or_stops_the_run(run: Run, tmp_path: Path) -> None:
    with spoilt("prediction"):
        seen = run({"training.max_steps": BEFORE + 3})
    assert seen.records[-1]["skipped"] == 1
    assert np.isfinite([r["loss"] for r in seen.records]).all()
    assert [r["step"] for r in seen.records] == [1, 2, 4, 5]
    folder = tmp_path / "stopped"
    with spoilt("prediction"), pytest.raises(UserError, match=r"step 2: not finite: prediction of level 1") as error:
        run_tiny(folder, {"training.non_finite": "stop"})
    assert "\n" not in str(error.value)
    # The state before the non-finite step is saved, and the run resumes from it.
    assert read_checkpoint(folder / "checkpoints" / "last.pth")["step"] == BEFORE
    resumed = run({"training.non_finite": "stop"}, folder=folder, resume="auto")
    same_learning_state(run().state, resumed.state)


def test_an_infinite_loss_with_a_finite_gradient_is_detected() -> None:
    from hjepa.training.nonfinite import poison

    weight = torch.ones(3, requires_grad=True)
    losses = [weight.sum() + float("inf"), weight.sum()]
    (losses[-1] * poison([loss.detach() for loss in losses])).backward()
    assert weight.grad is not None
    assert weight.grad.isnan().all()
    fine = torch.tensor(1.2345e-7)
    assert torch.equal(fine * poison([fine]), fine)


@contextmanager
def memory_for(images: int, from_pass: int = 0) -> Iterator[list[int]]:
    """A device on which a training pass over more images than that runs out of memory; lists the passes that fit."""
    passes: list[int] = []
    count = 0

    def check(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal count
        if isinstance(module, HJEPA) and module.training:
            count += 1
            if len(args[0]) > images and count > from_pass:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")
            passes.append(len(args[0]))

    handle = nn.modules.module.register_module_forward_pre_hook(check)
    try:
        yield passes
    finally:
        handle.remove()


def test_smaller_micro_batches_keep_the_global_batch(run: Run) -> None:
    keys = {"data.batch_size": 8, "training.accumulation_steps": 4, "data.subset": 128, "training.max_steps": 4}
    whole = run(keys)
    for fits, rung, from_pass in ((4, "4 x 8", 0), (2, "2 x 16", 0), (1, "1 x 32", 0), (4, "4 x 8", 6)):
        with memory_for(fits, from_pass) as passes:
            seen = run(keys)
        assert f"micro-batches of {rung}" in seen.log
        assert "still 32 images per update" in seen.log
        assert seen.outcome.step == whole.outcome.step
        assert max(passes[from_pass:]) == fits
        assert torch.allclose(seen.weights, whole.weights, atol=2e-5)
        assert [r["loss"] for r in seen.records] == pytest.approx([r["loss"] for r in whole.records], rel=1e-4)


def test_a_run_with_reduced_micro_batches_resumes_with_them_bit_by_bit(run: Run) -> None:
    keys = {"data.batch_size": 8, "training.accumulation_steps": 2}
    with memory_for(4):
        whole = run(keys)
    with memory_for(4):
        part = run({**keys, "training.max_steps": 5})
    resumed = run(keys, folder=part.folder, resume="auto")
    assert "continuing with micro-batches of 4 x 4" in resumed.log
    same_learning_state(whole.state, resumed.state)


def test_running_out_of_memory_with_the_smallest_micro_batch_is_a_one_line_error(run: Run) -> None:
    with memory_for(0), pytest.raises(UserError, match=r"out of memory on cpu with data\.batch_size=1") as error:
        run({"data.batch_size": 2})
    assert "\n" not in str(error.value)
    with memory_for(15), pytest.raises(UserError, match=r"out of memory on cpu with data\.batch_size=16"):
        run({"loss.variance_loss_weight": 0.1})


def test_next_rung() -> None:
    assert next_rung(8, 4) == (4, 8)
    assert next_rung(9, 2) == (3, 6)
    assert next_rung(1, 32) is None
    assert next_rung(32, 1, fewest=16) == (16, 2)
    assert next_rung(16, 1, fewest=16) is None


def test_micro_batches_are_not_reduced_below_what_infonce_needs() -> None:
    config = tiny_config({"loss.type": "infonce", "loss.candidate_images": 12})
    assert [build_method(config).fewest_images(processes) for processes in (1, 2, 5)] == [12, 6, 3]
    assert next_rung(32, 1, build_method(config).fewest_images(1)) == (16, 2)
    assert next_rung(16, 2, build_method(config).fewest_images(1)) is None
    regularised = tiny_config({"loss.type": "infonce", "loss.candidate_images": 12, "loss.variance_loss_weight": 0.1})
    assert build_method(regularised).fewest_images(1) == 16


def test_too_few_images_for_infonce_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = tiny_config({"loss.type": "infonce", "loss.candidate_images": 20})
    with pytest.raises(UserError) as error:
        run_training(config, output_dir=tmp_path / "run", console=False)
    message = str(error.value)
    assert "\n" not in message
    for part in ("data.batch_size: 16", "loss.candidate_images=20", "at most 16"):
        assert part in message
    assert not (tmp_path / "run").exists()
    HJepa.check(config, 2)
    with pytest.raises(UserError, match=r"data\.batch_size: 4 in each of 4 processes"):
        HJepa.check(tiny_config({"loss.type": "infonce", "data.batch_size": 4}), 4)


def test_a_real_out_of_memory_error_is_recognised() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


HOLD = """
import sys, time
from pathlib import Path
from hjepa.runs.lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_runs_cannot_write_to_one_folder_and_a_killed_one_leaves_no_lock(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {process.pid} on ") as error:
            run(folder=folder)
        assert "\n" not in str(error.value)
        assert {p.name for p in folder.iterdir()} <= {".lock", "checkpoints"}
    finally:
        process.kill()
        process.wait()
    assert run({"training.max_steps": 1}, folder=folder).outcome.step == 1
    with FolderLock(folder), pytest.raises(UserError, match="another run of this process"):
        run(folder=folder, resume="auto")


def images(folder: Path, count: int = 48) -> Path:
    random = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{index:02d}.png")
    return folder


def loader(folder: Path, **keys: Any) -> TrainLoader:
    settings = {"dataset": "folder", "data_path": str(folder), "subset": None, "storage": "workers", "num_workers": 1}
    config = tiny_config({f"data.{k}": v for k, v in {**settings, **keys}.items()})
    dataset = build_dataset(config.data, "train", seed=0)
    statistics = {"mean": [0.5] * 3, "std": [0.2] * 3}
    return TrainLoader(dataset, config.data, (16, 16), **statistics, seed=0, device=torch.device("cpu"))


def collect(batches: Iterator[Any]) -> list[Tensor]:
    return [batch.images for batch in batches]


def test_files_that_disappear_or_become_unreadable_during_training_are_counted(run: Run, tmp_path: Path) -> None:
    folder = images(tmp_path / "images")
    spoilt_files = loader(folder, num_workers=0)
    names = sorted(folder.glob("*.png"))
    for file in names[:6]:
        file.unlink()
    names[7].write_bytes(names[7].read_bytes()[:60])
    collect(spoilt_files.batches(0, spoilt_files.steps_per_epoch))
    known = set(spoilt_files.dataset.identifiers)
    reasons = {bad.path: bad.reason for bad in spoilt_files.dataset.bad_files}
    assert reasons
    assert set(reasons) <= known
    assert "missing" in reasons.values()
    assert run().records[-1]["bad_images"] == 0


def test_records_on_a_full_disk_are_kept_and_written_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "metrics.jsonl"
    sink = JsonLines(file, 0)
    sink.write({"step": 1, "text": "x" * 50})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with caplog.at_level(logging.ERROR, "hjepa"):
            sink.write({"step": 2, "text": "y" * 50})
            sink.write({"step": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1]
    assert caplog.text.count("cannot be written") == 1
    sink.write({"step": 4})
    sink.close()
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_truncated_record_and_records_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    sink = JsonLines(file, 2)
    sink.write({"step": 3, "again": True})
    sink.close()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "again": True},
    ]


def test_a_failed_save_is_logged_and_training_continues(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    # A folder with the name of the checkpoint makes the rename fail with a real file-system error.
    (folder / "checkpoints" / "checkpoint_epoch_1.pth").mkdir()
    seen = run({"checkpoint.save_frequency": 1}, folder=folder)
    assert seen.outcome.completed
    assert "checkpoint_epoch_1.pth: the checkpoint cannot be written" in seen.log
    assert "Training continues" in seen.log
    assert seen.state["step"] == 12
    assert "checkpoint_epoch_1.pth" not in seen.state["retention"]["scores"]


ONE_RANK_SPOILT = """
import os, sys
from pathlib import Path
import torch
from torch import nn
from hjepa.config import load_config
from hjepa.models.hjepa import HJEPA
from hjepa.training import run_training

# Forked after the imports, which take longer than the run.
child = os.fork()
rank, folder, steps, models = int(child == 0), Path(sys.argv[2]), 0, []
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
os.environ["MASTER_PORT"] = sys.argv[3]

def spoil(module, args, output):
    global steps
    if isinstance(module, HJEPA) and module.training:
        models[:] = [module]
        steps += 1
        # The first pass is the trial of a micro-batch before training starts.
        if rank == 1 and steps == 3:
            output.predictions[0] = output.predictions[0] * float("inf")

nn.modules.module.register_module_forward_hook(spoil)
run_training(load_config(sys.argv[1]), output_dir=folder, console=False)
torch.save({n: p.detach() for n, p in models[0].named_parameters()}, folder / f"rank{rank}.pt")
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_all_processes_skip_the_update_when_one_has_a_non_finite_loss(tmp_path: Path) -> None:
    import yaml

    config, program, folder = tmp_path / "tiny.yaml", tmp_path / "program.py", tmp_path / "run"
    settings = tiny_config({"training.max_steps": 3, "data.batch_size": 8}).model_dump(mode="json")
    config.write_text(yaml.safe_dump(settings))
    program.write_text(ONE_RANK_SPOILT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = subprocess.run(
        [sys.executable, str(program), str(config), str(folder), str(port)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    state = read_checkpoint(folder / "checkpoints" / "last.pth")
    assert (state["step"], state["skipped"]) == (3, 1)
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert value.isfinite().all()
    report = json.loads((folder / "non_finite" / "step_00000001_rank1.json").read_text())
    assert (report["stage"], report["levels"]) == ("prediction", [0])
    assert len(report["micro_batches"][0]["images"]) == 8
