"""Profile the first steps of a run: a trace for Perfetto, and a table of the operations that take the time."""

from __future__ import annotations

import contextlib
import gzip
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from hjepa.runtime.files import write_atomically
from hjepa.runtime.peak import synchronise

if TYPE_CHECKING:
    from torch.autograd.profiler_util import EventList, FunctionEventAvg

    from hjepa.training.progress import Display
    from hjepa.training.trainer import Trainer

log = logging.getLogger("hjepa")

WARM_UP = 5
"""Steps before the profile: the first ones allocate memory, fill caches and start worker processes."""
_ROWS = 20
# A part must take this share of the whole to be worth a line of its own.
_LEAST = 0.001


class Profiling:
    """Profiles some steps of a run, without changing what is computed.

    It takes the place of the progress display, which is told of every step.

    Args:
        trainer: ready to run.
        progress: the display that is told too.
        steps: number of steps to profile, after `WARM_UP` others.
        folder: the run folder; ``profile.md`` and ``profile/steps_<a>_to_<b>.json.gz`` are written to it.
    """

    def __init__(self, trainer: Trainer, progress: Display, steps: int, folder: Path) -> None:
        self._trainer = trainer
        self._progress = progress
        self._steps = steps
        self._folder = folder
        self._begin = trainer.step + WARM_UP
        self._done = 0
        self._profile: profile | None = None
        self._marks = contextlib.ExitStack()

    def advance(self, step: int) -> None:
        """A step is done."""
        self._progress.advance(step)
        if self._profile is not None:
            self._done = step
            if step >= self._begin + self._steps:
                self._stop()
        elif step == self._begin:
            self._start()

    def report(self, record: dict[str, Any], seconds_left: float) -> None:
        """A logging interval is done."""
        self._progress.report(record, seconds_left)

    def close(self) -> None:
        """Write what was profiled so far, if the run ended earlier."""
        if self._profile is not None:
            self._stop()
        elif self._done == 0:
            log.warning("--profile: the run ended within the %d steps of warm-up; nothing was profiled", WARM_UP)
        self._progress.close()

    def _start(self) -> None:
        synchronise(self._trainer.device)
        _mark(self._trainer, self._marks)
        activities = [ProfilerActivity.CPU]
        if self._trainer.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities, record_shapes=False, profile_memory=False)
        self._profile.start()

    def _stop(self) -> None:
        made, self._profile = self._profile, None
        assert made is not None
        synchronise(self._trainer.device)
        made.stop()
        self._marks.close()
        steps = self._done - self._begin
        if steps < 1:
            log.warning("--profile: the run ended before a step was profiled")
            self._done = 0
            return
        trace = self._folder / "profile" / f"steps_{self._begin + 1}_to_{self._done}.json.gz"
        trace.parent.mkdir(parents=True, exist_ok=True)
        _write_trace(made, trace)
        cuda = self._trainer.device.type == "cuda"
        text = describe(made.key_averages(), steps, cuda=cuda, trace=trace.name, about=self._about())
        write_atomically(self._folder / "profile.md", text)
        for line in text.splitlines():
            log.info("%s", line)
        log.info("profile: %s; open %s at https://ui.perfetto.dev", self._folder / "profile.md", trace)

    def _about(self) -> str:
        trainer = self._trainer
        precision = str(trainer.precision.dtype).removeprefix("torch.") if trainer.precision.enabled else "float32"
        return (
            f"{trainer.device}, {torch.get_num_threads()} CPU threads, {precision}, "
            f"{'compiled' if trainer.parts.compiled else 'eager'}, {trainer.loader.global_batch} images per step"
        )


def describe(averages: EventList, steps: int, *, cuda: bool, trace: str, about: str) -> str:
    """The profile as Markdown: the parts of a step, then the operations that take most time.

    Args:
        averages: of the profiler.
        steps: that were profiled.
        cuda: whether the time of a GPU counts rather than that of the host.
        trace: file name of the trace.
        about: conditions, in one line.
    """
    parts = [event for event in averages if event.key.startswith(_PREFIX) and not _is_device_copy(event)]
    operations = [event for event in averages if not event.key.startswith((_PREFIX, "ProfilerStep"))]

    def own(event: FunctionEventAvg) -> float:
        return float(event.self_device_time_total if cuda else event.self_cpu_time_total)

    whole = sum(own(event) for event in operations)
    ranked = sorted(operations, key=own, reverse=True)
    lines = [
        "# Profile",
        "",
        f"{steps} steps after {WARM_UP} of warm-up; {about}. The trace is `profile/{trace}`: open it at",
        "<https://ui.perfetto.dev>, or in Chrome at `chrome://tracing`. The profiler itself slows a step down.",
        "",
        "| part of a step | host, ms | share of the host's time |",
        "| --- | ---: | ---: |",
    ]
    host = sum(float(event.self_cpu_time_total) for event in averages)
    for event in sorted(parts, key=lambda e: e.cpu_time_total, reverse=True):
        taken = float(event.cpu_time_total)
        lines.append(f"| {event.key.removeprefix(_PREFIX)} | {taken / steps / 1e3:.2f} | {taken / host:.0%} |")
    lines += [
        "",
        f"| operation | {'GPU' if cuda else 'host'}, ms per step | share | calls per step |",
        "| --- | ---: | ---: | ---: |",
    ]
    for event in ranked[:_ROWS]:
        if whole > 0 and own(event) / whole >= _LEAST:
            row = f"{own(event) / steps / 1e3:.2f} | {own(event) / whole:.1%} | {event.count / steps:.1f}"
            lines.append(f"| `{event.key}` | {row} |")
    return "\n".join(lines) + "\n"


_PREFIX = "hjepa: "


def _is_device_copy(event: FunctionEventAvg) -> bool:
    """Whether this is the shadow of a mark on the GPU's time line."""
    return float(event.cpu_time_total) == 0


def _mark(trainer: Trainer, marks: contextlib.ExitStack) -> None:
    """Name the parts of a step in the trace: forward passes of the networks, and the update."""
    if trainer.parts.compiled:
        return  # hooks would break the compiled graph
    for name, module in trainer.method.weights.named_children():
        _mark_module(_PREFIX + name, module, marks)
    _mark_module(_PREFIX + "forward pass and loss", trainer.method, marks)
    update = trainer.update

    def marked(*args: Any, **keys: Any) -> Any:
        with record_function(_PREFIX + "update"):
            return update(*args, **keys)

    trainer.update = _Marked(update, marked)  # type: ignore[assignment]
    marks.callback(setattr, trainer, "update", update)


class _Marked:
    """An object whose call is another function; everything else is its own."""

    def __init__(self, original: Any, call: Any) -> None:
        self._original, self._call = original, call

    def __call__(self, *args: Any, **keys: Any) -> Any:
        return self._call(*args, **keys)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _mark_module(name: str, module: nn.Module, marks: contextlib.ExitStack) -> None:
    open_marks: list[contextlib.ExitStack] = []

    def enter(*_: Any) -> None:
        mark = contextlib.ExitStack()
        mark.enter_context(record_function(name))
        open_marks.append(mark)

    def leave(*_: Any) -> None:
        if open_marks:
            open_marks.pop().close()

    for handle in (
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),
    ):
        marks.callback(handle.remove)


def _write_trace(made: profile, path: Path) -> None:
    with _temporary(path.parent) as file:
        made.export_chrome_trace(str(file))
        with file.open("rb") as source, gzip.open(file.with_suffix(".gz"), "wb") as packed:
            shutil.copyfileobj(source, packed)
        file.with_suffix(".gz").replace(path)


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".trace") as inside:
        yield Path(inside) / "trace.json"
