"""Build a trainer: data, method, loader, online evaluation, checkpoints, records."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from hjepa.config import flat_values
from hjepa.data import TrainLoader, measure_statistics
from hjepa.data.image_sample import OWN_SOURCES, sample_images
from hjepa.errors import UserError
from hjepa.health.alerts import Alerts
from hjepa.methods import build_method
from hjepa.runtime import distribution
from hjepa.training.distributed.strategy import choose_strategy
from hjepa.training.loggers import open_sinks
from hjepa.training.online import OnlineEvaluation
from hjepa.training.optim.schedules import Schedules
from hjepa.training.resume import resumed_step, schedules_of
from hjepa.training.saving import Retention, ShardedFolders, WholeFiles
from hjepa.training.trainer import Trainer, TrainerParts
from hjepa.training.watch import HealthWatch

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.data import ImageDataset
    from hjepa.runs.folder import RunFolder
    from hjepa.runs.locate import Start
    from hjepa.runtime.distribution import World

log = logging.getLogger("hjepa")


def assemble(
    config: Config,
    dataset: ImageDataset,
    *,
    device: torch.device,
    world: World,
    folder: RunFolder,
    begin: Start | None = None,
    run: str = "",
    writes: bool = True,
) -> Trainer:
    """Build a trainer, ready for its first step or restored from a checkpoint.

    Args:
        config: the configuration.
        dataset: training images.
        device: of this process.
        world: rank and number of processes.
        folder: the run folder.
        begin: the checkpoint to resume from.
        run: identity of the run.
        writes: write records; false in benchmarks. Nothing is written if no step is left to train.

    Raises:
        UserError: data, configuration and checkpoint do not match.
    """
    state = None if begin is None else begin.state
    data_state = _data_state(config, dataset) if state is None else state["data"]
    mean, std = tuple(data_state["mean"]), tuple(data_state["std"])
    torch.manual_seed(config.seed * 1009 + world.rank)
    method = build_method(config, data_state["channels"])
    strategy = choose_strategy(config, method, world, device)
    loader = TrainLoader(
        dataset,
        config.data,
        method.encoder.geometry.height_width,
        mean=mean,
        std=std,
        seed=config.seed,
        accumulation_steps=config.training.accumulation_steps,
        rank=world.rank,
        world_size=world.size,
        device=device,
        views=method.views(),
        with_targets=method.with_targets,
    )
    schedules = Schedules(config, loader.steps_per_epoch, loader.global_batch)
    before, step, per_epoch = 0, 0, None
    if state is not None:
        _say_what_changed(config, state["config"])
        if world.is_main:
            _compare_data(dataset, data_state)
        data_state = data_state | {"images": len(dataset)}
        # A run that branches off into another folder keeps none of the records that a failed start left there.
        before = int(state["step"]) if state["run"] in ("", run) else -1
        followed = schedules_of(state, schedules)
        if followed.steps_per_epoch != schedules.steps_per_epoch:
            per_epoch = followed.steps_per_epoch, schedules.steps_per_epoch
        step = distribution.by_main(lambda: resumed_step(state, schedules, method))
    trainer = Trainer(
        TrainerParts(
            config=config,
            method=method,
            loader=loader,
            online=OnlineEvaluation(config, dataset, mean, std, device, world.size),
            watch=HealthWatch(config, Alerts(config.health, config.logging.experiment_name), is_main=world.is_main),
            retention=Retention(
                folder.checkpoints,
                config.checkpoint.keep_best_n,
                background=config.checkpoint.background,
                files=ShardedFolders() if strategy == "fsdp" else WholeFiles(),
            ),
            sinks=[],
            world=world,
            data_state=data_state,
            run_dir=folder.root,
            run=run,
            compiled=compiles(config, device, begin),
            strategy=strategy,
        )
    )
    if begin is not None:
        trainer.restore(begin.state, begin.checkpoint, step)
    if writes and world.is_main and step < trainer.last_step:
        # After everything that may refuse the checkpoint, as records after its step are removed.
        trainer.parts.sinks.extend(open_sinks(config, folder.root, before, step, per_epoch))
    return trainer


def compiles(config: Config, device: torch.device, begin: Start | None) -> bool:
    """Whether to compile the networks. With ``auto`` a resumed run keeps the choice of its checkpoint."""
    wanted = config.training.compile
    if wanted != "auto":
        return wanted
    if begin is not None and "compiled" in begin.state:
        return bool(begin.state["compiled"])
    return device.type == "cuda"


def _data_state(config: Config, dataset: ImageDataset) -> dict[str, Any]:
    if config.data.mean is not None and config.data.std is not None:
        for key, values in (("mean", config.data.mean), ("std", config.data.std)):
            if len(values) != dataset.channels:
                raise UserError(
                    f"data.{key}: has {len(values)} values, but the images have {dataset.channels} channels"
                )
        mean, std = tuple(config.data.mean), tuple(config.data.std)
    else:
        mean, std = measure_statistics(dataset, config.seed)
    state = {"channels": dataset.channels, "mean": list(mean), "std": list(std), "images": len(dataset)}
    sample = sample_images(dataset) if config.data.dataset in OWN_SOURCES else None
    if sample is not None:
        state["sample"] = sample
    return state


def _compare_data(dataset: ImageDataset, data_state: dict[str, Any]) -> None:
    before = data_state.get("images", len(dataset))
    if before != len(dataset):
        log.warning(
            "%s: has %d images, but had %d before; the order of images changes from here on",
            dataset.name,
            len(dataset),
            before,
        )


def _say_what_changed(config: Config, before: dict[str, Any]) -> None:
    old, new = flat_values(before), flat_values(config)
    changed = [f"{key} {old.get(key)} -> {value}" for key, value in new.items() if old.get(key) != value]
    if changed:
        log.info("resuming with changed keys: %s", ", ".join(changed))
