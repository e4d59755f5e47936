"""A training run from configuration to run folder: everything around the training loop."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hjepa.data import build_dataset
from hjepa.errors import UserError
from hjepa.methods import find_method
from hjepa.runs.checkpoint import remove_leftovers
from hjepa.runs.folder import RunFolder, locate
from hjepa.runs.locate import Start, find_checkpoint, newest_usable, read_start
from hjepa.runs.ownership import folder_to_continue, holds_another_run, is_inside, refuse_another_run
from hjepa.runs.sharded import settle_leftovers
from hjepa.runtime import distribution
from hjepa.runtime.device import configure_backend, resolve_device
from hjepa.training.build import assemble
from hjepa.training.disk import check_space
from hjepa.training.distributed.strategy import check_strategy
from hjepa.training.interrupt import StopRequest
from hjepa.training.loggers import LogFile
from hjepa.training.precision import settle_precision
from hjepa.training.profiling import Profiling
from hjepa.training.progress import Display, Progress, duration
from hjepa.training.same_model import refuse_another_model

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.data import ImageDataset
    from hjepa.training.trainer import Trainer

log = logging.getLogger("hjepa")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        run_dir: the run folder.
        checkpoint: the newest checkpoint.
        step: optimiser steps done.
        completed: whether all epochs are done.
        interrupted: whether it was stopped on request before its last step.
        already_done: whether the run had finished before.
        stopped_early: why ``training.early_stopping`` ended it before its last step; None if it did not.
        is_main: whether this process writes the files.
        processes: training processes on this machine.
    """

    run_dir: Path
    checkpoint: Path
    step: int
    completed: bool
    interrupted: bool = False
    already_done: bool = False
    stopped_early: str | None = None
    is_main: bool = True
    processes: int = 1


def run_training(
    config: Config,
    *,
    output_dir: str | Path | None = None,
    resume: str | Path | None = None,
    console: bool = True,
    advice: str | None = None,
    profile: int | None = None,
) -> Outcome:
    """Train and write a run folder.

    Args:
        config: the configuration.
        output_dir: the run folder, overriding the configuration.
        resume: `auto` (resume if the run folder holds an unfinished run), a checkpoint or a run folder; the last two
            continue in the run's own folder unless ``output_dir`` or ``logging.log_dir`` is given.
        console: show progress on standard output.
        advice: advice on the configuration, written to the log.
        profile: steps to profile, see `hjepa.training.profiling`.

    Raises:
        UserError: a mistake in the configuration, the data or the folder; nothing was overwritten.
    """
    world = distribution.read_world(config.distributed)
    device = resolve_device(config.device, world.local_rank)
    configure_backend(config.training, device, processes=world.local_size)
    find_method(config.method).check(config, world.size)
    # The main process decides where to write and where to begin; the others follow.
    own = folder_to_continue(config, output_dir, resume) if world.is_main else None
    folder = own or locate(config, output_dir)
    if world.is_main and world.restarts:
        resume = _after_restart(folder, resume)
    with contextlib.ExitStack() as stack:
        stack.enter_context(distribution.failing_together())
        if world.is_main:
            _refuse_to_overwrite(folder, resume)
            folder.create()
            stack.enter_context(folder.locked())
            remove_leftovers(folder.checkpoints)
            settle_leftovers(folder.checkpoints)
        distribution.start(config.distributed, world, device)
        stack.callback(distribution.stop)
        folder = distribution.from_main(folder)
        start = _starting_point(folder, resume)
        run = distribution.from_main(_identity(folder, start))
        if world.is_main:
            stack.enter_context(LogFile(folder.root / "training.log", console=console))
            if advice is not None:
                log.info("%s", advice)
            if own is not None:
                log.info("no --output-dir given: continuing in %s, the run's own folder", own.root)
        if start is not None:
            distribution.by_main(functools.partial(refuse_another_model, config, start.state, start.checkpoint))
            _keep_threads(config, start.state)
        before = None if start is None else start.state["config"]["training"].get("use_amp")
        config = settle_precision(config, device, before)
        check_strategy(config, world.size)
        return _train(config, folder, device, world, start, console and world.is_main, run, profile)


def _train(
    config: Config,
    folder: RunFolder,
    device: torch.device,
    world: distribution.World,
    begin: Start | None,
    console: bool,
    run: str,
    profile: int | None,
) -> Outcome:
    for note in () if begin is None else begin.notes:
        log.warning("%s", note)
    dataset = build_dataset(config.data, "train", seed=config.seed)
    trainer = assemble(config, dataset, device=device, world=world, folder=folder, begin=begin, run=run)
    if trainer.step >= trainer.last_step:
        distribution.by_main(lambda: _refuse_to_copy(trainer.step, folder, begin))
        log.info("%s: already finished at step %d, nothing left to do", folder.root, trainer.step)
        trainer.close()
        return _outcome(trainer, folder, already_done=True)
    if world.is_main:
        # After all checks, so that a refused run leaves the description of the folder as it was.
        folder.describe(config, device, world.size, run)
        check_space(folder, trainer.method, config.checkpoint.keep_best_n)
    _announce(trainer, dataset)
    with StopRequest() as stop:
        progress: Display = Progress(trainer.step, trainer.last_step, bar=None if console else False)
        if profile is not None and world.is_main:
            progress = Profiling(trainer, progress, profile, folder.root)
        try:
            trainer.run(stop, progress)
        finally:
            progress.close()
            trainer.close()
    early = trainer.early.reason if trainer.step < trainer.last_step else None
    early = distribution.from_main(early)
    outcome = _outcome(trainer, folder, interrupted=trainer.step < trainer.last_step and early is None, early=early)
    if outcome.stopped_early is not None:
        log.info("resume with: hjepa train --resume %s --output-dir %s", outcome.checkpoint, folder.root)
    elif outcome.interrupted:
        log.info("stopped at step %d of %d; saved %s", trainer.step, trainer.last_step, outcome.checkpoint)
        log.info("resume with: hjepa train --resume %s --output-dir %s", outcome.checkpoint, folder.root)
    else:
        log.info("trained %d steps in %s; saved %s", trainer.step, duration(trainer.elapsed), outcome.checkpoint)
    return outcome


def _outcome(
    trainer: Trainer,
    folder: RunFolder,
    *,
    interrupted: bool = False,
    already_done: bool = False,
    early: str | None = None,
) -> Outcome:
    return Outcome(
        run_dir=folder.root,
        checkpoint=folder.last,
        step=trainer.step,
        completed=trainer.step >= trainer.schedules.total_steps,
        interrupted=interrupted,
        already_done=already_done,
        stopped_early=early,
        is_main=trainer.world.is_main,
        processes=trainer.world.local_size,
    )


def _refuse_to_overwrite(folder: RunFolder, resume: str | Path | None) -> None:
    if resume is None and folder.last.exists():
        raise UserError(
            f"{folder.root}: already holds a run ({folder.last}); add --resume auto to continue it, or choose another "
            "--output-dir"
        )
    if resume is not None and str(resume) != "auto":
        refuse_another_run(folder, resume)


def _after_restart(folder: RunFolder, resume: str | Path | None) -> str | Path:
    """What to resume from after torchrun has restarted the processes with the same arguments."""
    if resume is None:
        return "auto"
    # The run that branched off from the checkpoint has saved its own.
    if str(resume) != "auto" and holds_another_run(folder, find_checkpoint(resume)):
        return "auto"
    return resume


def _identity(folder: RunFolder, start: Start | None) -> str:
    """The run that is continued, or a new one; a checkpoint from another folder begins a new run."""
    continued = start.state["run"] if start is not None and is_inside(start.checkpoint, folder) else ""
    return folder.run or continued or uuid.uuid4().hex


def _refuse_to_copy(step: int, folder: RunFolder, begin: Start | None) -> None:
    """Refuse to resume a finished run into another folder, where nothing would be written."""
    if begin is None or is_inside(begin.checkpoint, folder):
        return
    raise UserError(
        f"{begin.checkpoint}: already finished at step {step}, nothing is left to train in {folder.root}; give "
        f"more training.epochs or training.max_steps, or use the checkpoint itself: hjepa evaluate --checkpoint "
        f"{begin.checkpoint}"
    )


def _starting_point(folder: RunFolder, resume: str | Path | None) -> Start | None:
    """The checkpoint to resume from. The main process finds and verifies it, the others read the one it found."""
    if distribution.size() == 1:
        return _look(folder, resume)

    def look() -> tuple[Path, tuple[str, ...]] | None:
        start = _look(folder, resume)
        return None if start is None else (start.checkpoint, start.notes)

    # The others wait for the main process, which has locked and cleaned the folder before it looks.
    found = distribution.by_main(look)
    return None if found is None else Start(found[0], read_start(found[0], verify=False), found[1])


def _look(folder: RunFolder, resume: str | Path | None) -> Start | None:
    if resume is None:
        return None
    if str(resume) == "auto":
        return newest_usable(folder.checkpoints, folder.run)
    path = find_checkpoint(resume)
    return Start(path, read_start(path))


def _keep_threads(config: Config, state: dict[str, Any]) -> None:
    """Keep the number of CPU threads: it decides the order of sums, and so the last bits of every result."""
    before, now = state.get("threads"), torch.get_num_threads()
    if before is None or before == now:
        return
    if config.training.num_threads is None and before <= (os.cpu_count() or 1):
        torch.set_num_threads(before)
        log.info("using %d CPU threads, as in the checkpoint", before)
    else:
        log.warning("%d CPU threads, %d in the checkpoint: results will agree only up to rounding", now, before)


def schedule_warnings(config: Config) -> list[str]:
    """What is unusual about the schedules of a configuration."""
    training = config.training
    if training.warmup_epochs < training.epochs:
        return []
    return [
        f"training.warmup_epochs={training.warmup_epochs:g} covers all {training.epochs:g} epochs: the learning rate never "
        "decays"
    ]


def _announce(trainer: Trainer, dataset: ImageDataset) -> None:
    schedules, training, world = trainer.schedules, trainer.config.training, trainer.world
    first, *rest = trainer.method.describe() or [type(trainer.method).__name__]
    log.info("%s: %d images; %s", dataset.name, len(dataset), first)
    for line in rest:
        log.info("%s", line)
    log.info(
        "global batch %d; peak learning rate %.3g; on %s",
        schedules.global_batch,
        training.lr * schedules.lr_factor,
        trainer.device,
    )
    for warning in schedule_warnings(trainer.config):
        log.warning("%s", warning)
    if world.size > 1:
        log.info(
            "%s: %d processes x %d images x %d micro-batches = %d images per update; learning rate %.3g x %.3g "
            "(training.lr_scaling=%s)",
            "DDP" if trainer.parts.strategy == "ddp" else "FSDP",
            world.size,
            trainer.micro.batch_size,
            trainer.micro.steps,
            schedules.global_batch,
            training.lr,
            schedules.lr_factor,
            training.lr_scaling,
        )
    if trainer.step:
        log.info("resuming from step %d", trainer.step)
    log.info("steps %d to %d", trainer.step, trainer.last_step)
