"""Worker processes that die, stall or find no shared memory: a one-line error or slower batches, no hang or traceback."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from hjepa.config import DataConfig
from hjepa.data import EvalLoader, ImageDataset, TrainLoader, ViewSpec, build_dataset
from hjepa.data.loading import worker_loader
from hjepa.data.targets import Boxes, ListedTargets
from hjepa.errors import DataError

STATISTICS = {"mean": [0.5] * 3, "std": [0.2] * 3, "device": torch.device("cpu")}


def loader(folder: Path, *, targets: ListedTargets | None = None, **keys: Any) -> TrainLoader:
    data = DataConfig(
        **({"dataset": "folder", "data_path": folder, "storage": "workers", "num_workers": 1, "batch_size": 8} | keys)
    )
    dataset = build_dataset(data)
    if targets is not None:
        dataset = ImageDataset(
            dataset.pixels, name="d", split="train", channels=3, identifiers=dataset.identifiers, targets=targets
        )
    views = (ViewSpec("large", (24, 24), count=2, random_crop=True), ViewSpec("small", (8, 8)))
    return TrainLoader(dataset, data, (24, 24), **STATISTICS, seed=0, views=views, with_targets=targets is not None)


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "--resume auto" in text
    assert text.startswith("data.num_workers=1: ")
    assert error.value.__cause__ is None
    return text


@pytest.mark.parametrize(
    ("number", "named"),
    [(signal.SIGKILL, "SIGKILL, probably for lack of memory"), (signal.SIGBUS, "SIGBUS, because it ran out of shared")],
)
def test_a_dead_worker_is_a_one_line_error(
    class_folder: Path, number: int, named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = set(multiprocessing.active_children())
    batches = loader(class_folder, prefetch_factor=1).batches(0, 50)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, number)
    worker.join()
    # The death itself interrupts nothing: what has arrived is still handed out, and the next batch is the error.
    started = time.monotonic()
    with pytest.raises(DataError, match=named) as error:
        for _ in batches:
            pass
    assert time.monotonic() - started < 60
    assert str(worker.pid) in one_line(error)
    assert "Traceback" not in capfd.readouterr().err


def test_the_sigchld_handler_is_restored(class_folder: Path) -> None:
    def mine(number: int, frame: Any) -> None:
        """Somebody's own."""

    before = signal.signal(signal.SIGCHLD, mine)
    try:
        next(loader(class_folder).batches(0, 1))
        assert signal.getsignal(signal.SIGCHLD) is mine
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a pipe stands for a disk that does not answer")
@pytest.mark.parametrize("evaluation", [False, True])
def test_a_disk_that_does_not_respond_is_a_one_line_error(
    class_folder: Path, evaluation: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_loader, "TIMEOUT", 0.5)
    stalled = loader(class_folder)
    dataset = stalled.dataset
    for file in class_folder.rglob("*.png"):
        file.unlink()
        os.mkfifo(file)
    batches: Iterator[Any] = stalled.batches(0, 2)
    if evaluation:
        batches = iter(EvalLoader(dataset, None, (8, 8), **STATISTICS, batch_size=4, num_workers=1))
    started = time.monotonic()
    with pytest.raises(DataError, match=r"no batch from the worker processes for 0\.5 s") as error:
        next(batches)
    assert time.monotonic() - started >= 0.5
    one_line(error)


@contextmanager
def no_room() -> Iterator[None]:
    """Files, shared memory among them, of this process and those that it starts meanwhile hold a kilobyte at most."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="shared memory that can be limited by the size of files")
@pytest.mark.parametrize("kind", ["class", "dense", "boxes", "text"])
def test_without_shared_memory_batches_are_sent_through_pipes(
    class_folder: Path, kind: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    count = len(loader(class_folder).dataset)
    shapes = [loader(class_folder).dataset.read(index).shape[1:] for index in range(count)]
    targets = ListedTargets(
        kind,
        {
            "class": torch.arange(count),
            "dense": [torch.arange(h * w).view(h, w) for h, w in shapes],
            "boxes": [
                Boxes(torch.tensor([[0.0, 0, 9, 9], [2, 2, 4, 4]])[: i % 3], torch.tensor([i, 7])[: i % 3])
                for i in range(count)
            ],
            "text": [f"picture {index}" for index in range(count)],
        }[kind],
    )
    here = list(loader(class_folder, targets=targets, num_workers=0).batches(0, 4))
    shared = list(loader(class_folder, targets=targets).batches(0, 4))
    assert not caplog.records
    worker_loader._tell.cache_clear()
    piped = loader(class_folder, targets=targets).batches(0, 4)
    with caplog.at_level(logging.WARNING, "hjepa"):
        with no_room():
            first = next(piped)  # the workers start here
        through_pipes = [first, *piped]
    assert len([record for record in caplog.records if "are sent through pipes" in record.message]) == 1
    assert "Traceback" not in capfd.readouterr().err
    for other in (shared, through_pipes):
        for expected, batch in zip(here, other, strict=True):
            assert torch.equal(batch.indices, expected.indices)
            assert batch.targets is not None
            assert expected.targets is not None
            for view, same in zip(batch.views, expected.views, strict=True):
                assert torch.equal(view.images, same.images)
                assert torch.equal(view.boxes, same.boxes)
            assert batch.targets.texts == expected.targets.texts
            if expected.targets.classes is not None:
                assert torch.equal(batch.targets.classes, expected.targets.classes)
            assert all(torch.equal(a, b) for a, b in zip(batch.targets.dense, expected.targets.dense, strict=True))
            for objects, wanted in zip(batch.targets.boxes, expected.targets.boxes, strict=True):
                assert all(
                    torch.equal(a, b)
                    for one, two in zip(objects, wanted, strict=True)
                    for a, b in zip(one, two, strict=True)
                )


def test_workers_that_cannot_be_started_are_a_one_line_error(class_folder: Path) -> None:
    import resource

    starting = loader(class_folder)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 1, limits[1]))
    try:
        with pytest.raises(DataError, match="worker processes cannot be started") as error:
            next(starting.batches(0, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    one_line(error)


class HungryTargets(ListedTargets):
    """Texts that take more memory than there is."""

    def read(self, index: int) -> str:
        raise MemoryError(f"no room for {index}")


def test_a_worker_without_memory_is_a_one_line_error(class_folder: Path) -> None:
    count = len(loader(class_folder).dataset)
    hungry = loader(class_folder, targets=HungryTargets("text", ["a"] * count))
    with pytest.raises(DataError, match="a worker process ran out of memory") as error:
        next(hungry.batches(0, 1))
    one_line(error)


def test_other_errors_of_a_worker_are_not_changed(class_folder: Path) -> None:
    class Broken(ListedTargets):
        def read(self, index: int) -> str:
            raise KeyError(f"a mistake in the program at {index}")

    count = len(loader(class_folder).dataset)
    with pytest.raises(KeyError, match="a mistake in the program"):
        next(loader(class_folder, targets=Broken("text", ["a"] * count)).batches(0, 1))
