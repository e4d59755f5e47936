"""What a training run would do and what it would take, from a few real steps, without writing anything."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from hjepa.benchmark.step import TimedStep
from hjepa.errors import UserError
from hjepa.runs.folder import locate
from hjepa.runtime.memory import peak_memory
from hjepa.runtime.peak import synchronise
from hjepa.training.cost import counted_cost
from hjepa.training.disk import checkpoint_bytes, checkpoints_at_most, space_warning
from hjepa.training.progress import duration
from hjepa.training.run import schedule_warnings

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.training.trainer import Trainer

# Steps that warm up, the fewest that are timed, and for how many seconds more are.
_WARM_UP, _FEWEST, _SECONDS = 1, 3, 3.0
# Images whose encoding is timed, for the duration of online evaluations.
_ENCODED = 64
_LONG_WAIT = 0.1


@dataclass(frozen=True)
class DryRun:
    """What `hjepa train` would do.

    Attributes:
        data: data set and number of training images.
        model: lines that describe the method: encoder, levels, tokens.
        parameters: number of parameters by network (``context_encoder``, ``predictors``, ``target_encoder`` for H-JEPA).
        tokens: tokens per image that each part processes; empty if the method does not count them.
        steps, epochs: length of the run; `steps` respects ``training.max_steps``.
        images_per_step: over all accumulation steps.
        flop_per_image: of a whole training step; None if the method does not count its FLOP.
        flop: of the whole run.
        images_per_second: of the timed steps, loading included.
        data_wait: share of the time spent waiting for data.
        seconds: expected duration of training with online evaluations, without the final evaluation.
        evaluations: online evaluations, and ``evaluation_seconds`` for all of them with the untrained encoder.
        evaluation_seconds: see there.
        memory: peak in bytes, of the GPU's allocator or of this process; None where it cannot be measured.
        memory_of: ``GPU`` or ``process``.
        checkpoint_bytes, checkpoints: size of one, and the most on the disk at the same time.
        folder: the run folder.
        then: what follows training.
        timed_steps: steps that were timed.
        device, threads, precision: conditions of the measurement.
        warnings: what is unusual.
    """

    data: str
    model: tuple[str, ...]
    parameters: dict[str, int]
    tokens: dict[str, int]
    steps: int
    epochs: float
    images_per_step: int
    flop_per_image: float | None
    flop: float | None
    images_per_second: float
    data_wait: float
    seconds: float
    evaluations: int
    evaluation_seconds: float
    memory: int | None
    memory_of: str
    checkpoint_bytes: int
    checkpoints: int
    folder: str
    then: str
    timed_steps: int
    device: str
    threads: int
    precision: str
    warnings: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """A table for the terminal."""
        lines = [f"{name:<22}{value}" for name, value in self._rows()]
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings), "dry run: nothing was written"])

    def _rows(self) -> list[tuple[str, str]]:
        steps = f"{self.steps:,} steps of {self.images_per_step} images, {self.epochs:g} epochs"
        flop = "not counted by this method"
        if self.flop_per_image is not None and self.flop is not None:
            flop = f"{self.flop_per_image / 1e9:.2f} G per image, {self.flop:.2e} in total"
        memory = "not measured on this device"
        if self.memory is not None:
            memory = f"{self.memory / 1e9:.2f} GB at the peak of a step ({self.memory_of})"
        disk = self.checkpoint_bytes * self.checkpoints
        return [
            ("data", self.data),
            *(("model" if not number else "", line) for number, line in enumerate(self.model)),
            ("parameters", ", ".join(f"{name} {count:,}" for name, count in self.parameters.items())),
            ("tokens per image", ", ".join(f"{name} {count}" for name, count in self.tokens.items()) or "not counted"),
            ("training", steps),
            ("FLOP", flop),
            ("on", f"{self.device}, {self.threads} CPU threads, {self.precision}"),
            ("images/s", f"{self.images_per_second:.0f}, waiting for data {self.data_wait:.0%} of the time"),
            ("memory", memory),
            ("online evaluations", f"{self.evaluations}, {duration(self.evaluation_seconds)} in all"),
            ("time", f"{duration(self.seconds)} (from {self.timed_steps} steps; expect a third more or less)"),
            (
                "disk",
                f"{disk / 1e6:.0f} MB: {self.checkpoints} checkpoints of {self.checkpoint_bytes / 1e6:.1f} MB at most",
            ),
            ("run folder", self.folder),
            ("afterwards", self.then),
        ]


def dry_run(config: Config, *, output_dir: str | Path | None = None, advice: str | None = None) -> DryRun:
    """Build everything, take a few steps on real images, and write nothing.

    Args:
        config: the configuration.
        output_dir: the run folder, overriding the configuration.
        advice: a further warning.

    Raises:
        UserError: the configuration or the data cannot be used; several processes were started.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--dry-run: measures one process; start it without torchrun")
    step = TimedStep(config)
    trainer, config = step.trainer, step.config
    for _ in range(_WARM_UP):
        step()
    trainer.reset_interval()
    pace: list[float] = []
    while len(pace) < _FEWEST or sum(pace) < _SECONDS:
        pace.append(step())
    wait = trainer.waited / sum(pace)
    memory = peak_memory(step.device)
    folder = locate(config, output_dir)
    size, count = checkpoint_bytes(trainer.method), checkpoints_at_most(config.checkpoint.keep_best_n)
    cost = counted_cost(config, trainer.method.channels)
    evaluations, evaluating = _evaluations(trainer)
    steps = trainer.last_step
    dataset = trainer.loader.dataset
    warnings = [
        *([] if advice is None else [advice]),
        *schedule_warnings(config),
        *_about_folder(folder.last, folder.checkpoints, size * count),
        *_about_data(trainer, wait),
    ]
    return DryRun(
        data=f"{dataset.name}: {len(dataset):,} images",
        model=tuple(trainer.method.describe()),
        parameters=_parameters(trainer),
        tokens={} if cost is None else dict(cost.tokens),
        steps=steps,
        epochs=steps / trainer.schedules.steps_per_epoch,
        images_per_step=step.images,
        flop_per_image=None if cost is None else cost.total,
        flop=None if cost is None else cost.total * steps * step.images,
        images_per_second=step.images / median(pace),
        data_wait=wait,
        seconds=median(pace) * steps + evaluating,
        evaluations=evaluations,
        evaluation_seconds=evaluating,
        memory=memory,
        memory_of="GPU" if step.device.type == "cuda" else "process",
        checkpoint_bytes=size,
        checkpoints=count,
        folder=str(folder.root),
        then=_then(config, steps < trainer.schedules.total_steps),
        timed_steps=len(pace),
        device=torch.cuda.get_device_name(step.device) if step.device.type == "cuda" else step.device.type,
        threads=torch.get_num_threads(),
        precision=str(step.dtype).removeprefix("torch."),
        warnings=tuple(warnings),
    )


def _parameters(trainer: Trainer) -> dict[str, int]:
    parts = trainer.method.weights.named_children()
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in parts}
    return {name: count for name, count in counts.items() if count}


def _evaluations(trainer: Trainer) -> tuple[int, float]:
    """Number of online evaluations, and seconds of all, with the measures of the untrained encoder."""
    online, every = trainer.parts.online, trainer.config.evaluation.eval_frequency * trainer.schedules.steps_per_epoch
    count = trainer.last_step // every + (trainer.last_step % every > 0)
    images = count * (len(online.measured) + len(online.further)) + len(online.measured)
    online.encode_some(trainer.method.encoder, _ENCODED)
    synchronise(trainer.device)
    started = perf_counter()
    timed = online.encode_some(trainer.method.encoder, _ENCODED)
    synchronise(trainer.device)
    return count, (perf_counter() - started) * images / timed


def _about_folder(last: Path, checkpoints: Path, needed: int) -> list[str]:
    found = []
    if last.exists():
        found.append(
            f"{last}: a run is already there; train would refuse without --resume auto or another --output-dir"
        )
    existing = checkpoints.resolve()
    while not existing.exists():
        existing = existing.parent
    warning = space_warning(checkpoints, existing, needed)
    return found if warning is None else [*found, warning]


def _about_data(trainer: Trainer, wait: float) -> list[str]:
    config, online, found = trainer.config, trainer.parts.online, []
    if wait > _LONG_WAIT:
        found.append(
            f"{wait:.0%} of the time was spent waiting for data; raise data.num_workers (now {config.data.num_workers})"
        )
    if trainer.loader.dataset.labels is None:
        found.append("no labels: online k-NN, linear probe and k-NN are left out")
    if len(online.measured) < config.health.images:
        found.append(
            f"health is measured on {len(online.measured)} images instead of {config.health.images}, so that it takes at most "
            "3 % of the time; evaluate less often (evaluation.eval_frequency) for more"
        )
    return found


def _then(config: Config, cut: bool) -> str:
    if cut:
        return "nothing: training.max_steps ends the run before its last epoch"
    return "evaluation against controls, results.json and a report" if config.evaluation.final else "nothing"
