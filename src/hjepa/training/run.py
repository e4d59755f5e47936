"""A training run from configuration to run folder: everything around the loop."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hjepa.config import flat_values
from hjepa.data import TrainLoader, build_dataset, measure_statistics
from hjepa.errors import CheckpointError, UserError
from hjepa.models import build_model
from hjepa.training import distribution
from hjepa.training.checkpoint import find_checkpoint, read_checkpoint
from hjepa.training.device import configure_backend, resolve_device
from hjepa.training.interrupt import StopRequest
from hjepa.training.loggers import LogFile, open_sinks
from hjepa.training.loop import Trainer, build_sampler
from hjepa.training.online import OnlineEvaluation
from hjepa.training.progress import Progress, duration
from hjepa.training.retention import Retention
from hjepa.training.run_folder import RunFolder, locate

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.data import ImageDataset
    from hjepa.models import HJEPA

log = logging.getLogger("hjepa")

# Statistics of a batch with fewer rows say too little about variance and covariance.
SMALLEST_REGULARISED_BATCH = 16


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        run_dir: the run folder.
        checkpoint: the newest checkpoint.
        step: optimiser steps done.
        completed: whether all epochs are done.
        interrupted: whether it was asked to stop.
        already_done: whether there was nothing left to do.
        is_main: whether this process is the one that writes.
    """

    run_dir: Path
    checkpoint: Path
    step: int
    completed: bool
    interrupted: bool = False
    already_done: bool = False
    is_main: bool = True


def run_training(
    config: Config, *, output_dir: str | Path | None = None, resume: str | Path | None = None, console: bool = True
) -> Outcome:
    """Train and leave a run folder behind.

    Args:
        config: the configuration.
        output_dir: the run folder, in place of the configuration's.
        resume: `auto` (go on if the run folder holds an unfinished run), a checkpoint or a run folder.
        console: show progress on standard output.

    Raises:
        UserError: a mistake in the configuration, the data or the folder; nothing was overwritten.
    """
    world = distribution.read_world(config.distributed)
    device = resolve_device(config.device, world.local_rank)
    configure_backend(config.training, device)
    sampler = build_sampler(config)
    _check_regularisers(config, world.size, sampler.config.sets_per_image)
    folder = locate(config, output_dir)
    start = _starting_point(folder, resume)
    distribution.start(config.distributed, world, device)
    try:
        if world.is_main:
            folder.prepare(config, device, world.size)
        distribution.barrier()
        with LogFile(folder.root / "training.log", console=console and world.is_main):
            return _train(config, folder, device, world, start, console and world.is_main)
    finally:
        distribution.stop()


def _train(
    config: Config,
    folder: RunFolder,
    device: torch.device,
    world: distribution.World,
    begin: _Start | None,
    console: bool,
) -> Outcome:
    state = None if begin is None else begin.state
    for note in () if begin is None else begin.notes:
        log.warning("%s", note)
    dataset = build_dataset(config.data, "train", seed=config.seed)
    data_state = _data_state(config, dataset) if state is None else state["data"]
    torch.manual_seed(config.seed * 1009 + world.rank)
    model = build_model(config, data_state["channels"]).to(device)
    loader = TrainLoader(
        dataset,
        config.data,
        model.geometry.image_size,
        mean=tuple(data_state["mean"]),
        std=tuple(data_state["std"]),
        seed=config.seed,
        accumulation_steps=config.training.accumulation_steps,
        rank=world.rank,
        world_size=world.size,
        device=device,
    )
    online = OnlineEvaluation(config, dataset, tuple(data_state["mean"]), tuple(data_state["std"]), device)
    retention = Retention(folder.checkpoints, config.checkpoint.keep_best_n)
    start = 0 if state is None else int(state["step"])
    sinks = open_sinks(config, folder.root, start) if world.is_main else []
    trainer = Trainer(
        config, model, loader, online, retention, sinks, world=world, data_state=data_state, run_dir=folder.root
    )
    if begin is not None:
        _say_what_changed(config, begin.state["config"])
        trainer.restore(begin.state, begin.checkpoint)
    if trainer.step >= trainer.last_step:
        log.info("%s: finished at step %d, nothing left to do", folder.root, trainer.step)
        for sink in sinks:
            sink.close()
        return _outcome(trainer, folder, already_done=True)
    _announce(trainer, dataset, model, device)
    with StopRequest() as stop:
        progress = Progress(trainer.step, trainer.last_step, bar=None if console else False)
        try:
            trainer.run(stop, progress)
        finally:
            progress.close()
            for sink in sinks:
                sink.close()
    outcome = _outcome(trainer, folder, interrupted=trainer.step < trainer.last_step)
    if outcome.interrupted:
        log.info("stopped at step %d of %d; saved %s", trainer.step, trainer.last_step, outcome.checkpoint)
        log.info("go on with: hjepa train --resume %s --output-dir %s", outcome.checkpoint, folder.root)
    else:
        log.info("trained %d steps in %s; saved %s", trainer.step, duration(trainer._elapsed()), outcome.checkpoint)
    return outcome


def _outcome(trainer: Trainer, folder: RunFolder, *, interrupted: bool = False, already_done: bool = False) -> Outcome:
    return Outcome(
        run_dir=folder.root,
        checkpoint=folder.last,
        step=trainer.step,
        completed=trainer.step >= trainer.schedules.total_steps,
        interrupted=interrupted,
        already_done=already_done,
        is_main=trainer.world.is_main,
    )


@dataclass(frozen=True)
class _Start:
    """The checkpoint that a run goes on from, and what to say about those that could not be read."""

    checkpoint: Path
    state: dict[str, Any]
    notes: tuple[str, ...] = ()


def _starting_point(folder: RunFolder, resume: str | Path | None) -> _Start | None:
    if resume is None:
        if folder.last.exists():
            raise UserError(
                f"{folder.root}: holds a run already ({folder.last}); add --resume auto to go on with it, or choose another "
                "--output-dir"
            )
        return None
    if str(resume) == "auto":
        return _newest_readable(folder)
    path = find_checkpoint(resume)
    return _Start(path, read_checkpoint(path))


def _newest_readable(folder: RunFolder) -> _Start | None:
    """The newest checkpoint of a run folder that is whole: a damaged one falls back to the one before."""
    files = [p for p in folder.checkpoints.glob("*.pth") if not p.name.startswith(".")]
    files.sort(key=lambda p: (p == folder.last, p.stat().st_mtime), reverse=True)
    problems: list[CheckpointError] = []
    for file in files:
        try:
            state = read_checkpoint(file)
        except CheckpointError as error:
            problems.append(error)
            continue
        notes = [str(problem).split("; use ")[0] + f"; going on from {file} instead" for problem in problems]
        return _Start(file, state, tuple(notes))
    if problems:
        raise problems[0]
    return None


def _data_state(config: Config, dataset: ImageDataset) -> dict[str, Any]:
    if config.data.mean is not None and config.data.std is not None:
        for key, values in (("mean", config.data.mean), ("std", config.data.std)):
            if len(values) != dataset.channels:
                raise UserError(f"data.{key}: {len(values)} values for images of {dataset.channels} channels")
        mean, std = tuple(config.data.mean), tuple(config.data.std)
    else:
        mean, std = measure_statistics(dataset, config.seed)
    return {"channels": dataset.channels, "mean": list(mean), "std": list(std)}


def _check_regularisers(config: Config, processes: int, sets: int) -> None:
    loss = config.loss
    rows = config.data.batch_size * processes * sets
    if (
        loss.variance_loss_weight or loss.covariance_loss_weight or loss.sliced_gaussian_weight
    ) and rows < SMALLEST_REGULARISED_BATCH:
        raise UserError(
            f"data.batch_size: {config.data.batch_size} gives the variance, covariance and Gaussian terms {rows} images, "
            f"and they need {SMALLEST_REGULARISED_BATCH}; raise data.batch_size (training.accumulation_steps does not help, "
            "the terms are computed per micro-batch) or set their weights to 0"
        )


def _say_what_changed(config: Config, before: dict[str, Any]) -> None:
    old, new = flat_values(before), flat_values(config)
    changed = [f"{key} {old.get(key)} -> {value}" for key, value in new.items() if old.get(key) != value]
    if changed:
        log.info("resuming with changed keys: %s", ", ".join(changed))


def _announce(trainer: Trainer, dataset: ImageDataset, model: HJEPA, device: torch.device) -> None:
    geometry, counts = model.geometry, trainer.masks.counts
    schedules, t = trainer.schedules, trainer.config.training
    size = sum(p.numel() for p in model.context_encoder.parameters()) / 1e6
    levels = ", ".join(
        f"depth {level.depth} " + (f"stride {level.stride}" if level.stride else "whole image")
        for level in geometry.levels
    )
    log.info(
        "%s: %d images; encoder %d x %d, %.1f M parameters, %dx%d tokens; levels: %s",
        dataset.name,
        len(dataset),
        geometry.embed_dim,
        geometry.depth,
        size,
        *geometry.grid,
        levels,
    )
    log.info(
        "each image: %d of %d tokens seen, %s cells predicted; global batch %d; peak learning rate %.3g; on %s",
        counts.context,
        geometry.num_tokens,
        "/".join(map(str, counts.targets)),
        schedules.global_batch,
        t.lr * schedules.lr_factor,
        device,
    )
    if t.warmup_epochs >= t.epochs:
        log.warning(
            "training.warmup_epochs %g spans all %g epochs: the learning rate only rises", t.warmup_epochs, t.epochs
        )
    if trainer.step:
        log.info("going on from step %d", trainer.step)
    log.info("steps %d to %d", trainer.step, trainer.last_step)
