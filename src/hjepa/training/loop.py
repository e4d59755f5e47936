"""The training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hjepa.errors import UserError
from hjepa.masking import MaskSampler
from hjepa.objectives import LossTerms, Objective
from hjepa.training import distribution, guard
from hjepa.training.device import Precision
from hjepa.training.ema import TargetUpdate
from hjepa.training.memory import MicroBatchTooLargeError, is_out_of_memory, next_rung
from hjepa.training.online import OnlineEvaluation, score
from hjepa.training.optimizer import build_optimizer, set_hyperparameters
from hjepa.training.retention import Retention
from hjepa.training.schedules import Schedules
from hjepa.training.trained_run import load_optimizer, load_weights

if TYPE_CHECKING:
    from pathlib import Path

    from hjepa.config import Config
    from hjepa.data import Batch, TrainLoader
    from hjepa.models import HJEPA
    from hjepa.training.interrupt import StopRequest
    from hjepa.training.loggers import MetricSink
    from hjepa.training.progress import Progress

log = logging.getLogger("hjepa")

# So many updates in a row that had to be thrown away mean that the run is lost.
_MOST_SKIPPED = 10
# Statistics of a batch with fewer rows say too little about variance and covariance.
SMALLEST_REGULARISED_BATCH = 16
# A healthy float16 run settles on a loss scale far above this.
_LEAST_SCALE = 1.0


@dataclass
class Interval:
    """Sums since the last logged record; tensors stay on the device until it is written."""

    loss: Tensor | None = None
    levels: Tensor | None = None
    regularisers: dict[str, Tensor] | None = None
    micro_batches: int = 0
    waiting: float = 0.0
    started: float = 0.0

    def add(self, terms: LossTerms) -> None:
        """Add a micro-batch."""
        self.micro_batches += 1
        total = terms.total.detach()
        self.loss = total if self.loss is None else self.loss + total
        self.levels = terms.levels if self.levels is None else self.levels + terms.levels
        before = self.regularisers or {}
        self.regularisers = {n: before[n] + v if n in before else v for n, v in terms.regularisers.items()}

    def state(self) -> dict[str, Any]:
        """The sums, for a checkpoint between two records."""
        return {
            "loss": self.loss,
            "levels": self.levels,
            "regularisers": self.regularisers,
            "micro_batches": self.micro_batches,
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Put the sums back."""
        sums = state["regularisers"]
        self.loss = None if state["loss"] is None else state["loss"].to(device)
        self.levels = None if state["levels"] is None else state["levels"].to(device)
        self.regularisers = None if sums is None else {name: value.to(device) for name, value in sums.items()}
        self.micro_batches = state["micro_batches"]


class Trainer:
    """Trains a model.

    Args:
        config: the configuration.
        model: on its device.
        loader: micro-batches of training images.
        online: evaluation during training.
        retention: checkpoints.
        sinks: where records go.
        world: this process among all.
        data_state: what a checkpoint must know of the data (`channels`, `mean`, `std`).
        run_dir: the run folder, recorded in checkpoints.
        run: identity of the run, recorded in checkpoints.
        compiled: whether the networks are compiled; as `training.compile` says when not given, `auto` being no.
    """

    def __init__(
        self,
        config: Config,
        model: HJEPA,
        loader: TrainLoader,
        online: OnlineEvaluation,
        retention: Retention,
        sinks: list[MetricSink],
        *,
        world: distribution.World,
        data_state: dict[str, Any],
        run_dir: Path,
        run: str = "",
        compiled: bool | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.loader = loader
        self.online = online
        self.retention = retention
        self.sinks = sinks
        self.world = world
        self.data_state = data_state
        self.run_dir = run_dir
        self.run_id = run
        self.batch_size = config.data.batch_size
        self.accumulation_steps = config.training.accumulation_steps
        self.reports = guard.TroubleReports(run_dir, loader.dataset.identifiers, world.rank)
        self.device = next(model.parameters()).device
        self.schedules = Schedules(config, loader.steps_per_epoch, loader.global_batch)
        self.masks = build_sampler(config)
        self.objective = build_objective(config)
        self.optimizer = build_optimizer(model, config.training)
        self.precision = Precision(config.training, self.device)
        self.update_target = TargetUpdate(model.context_encoder, model.target_encoder)
        self.network: nn.Module = model
        self.compiled = config.training.compile is True if compiled is None else compiled
        if self.compiled:
            model.compile_parts()
        if world.size > 1:
            self.network = nn.parallel.DistributedDataParallel(
                model, device_ids=[self.device.index] if self.device.type == "cuda" else None
            )
        self.step = 0
        self.loss = float("nan")
        self.skipped = 0
        self._skipped_in_a_row = 0
        self._values: dict[str, float] = {}
        self._seconds = 0.0
        self.reset_interval()

    @property
    def last_step(self) -> int:
        """Number of steps at which this run ends."""
        total = self.schedules.total_steps
        return min(total, self.config.training.max_steps or total)

    # -- the algorithm -------------------------------------------------------------------------------------------

    def run(self, stop: StopRequest, progress: Progress) -> bool:
        """Train to the last step, or until asked to stop. Returns whether the last step was reached."""
        self.model.train()
        batches = self.loader.batches(self.step, self.last_step)
        self._begin()
        while self.step < self.last_step:
            try:
                targets, norm = self.train_step(batches)
            except MicroBatchTooLargeError as error:
                # The same step again, in smaller pieces.
                batches = self._step_down(error)
                continue
            progress.advance(self.step)
            if self._due(self.config.logging.log_frequency) and self._interval.micro_batches:
                progress.report(self._record(targets, norm), self._seconds_left())
            self._look_after()
            if distribution.any_process(stop.requested):
                break
        self._save_last()
        if self.world.is_main:
            self.retention.ensure_best()
        distribution.barrier()
        return self.step >= self.last_step

    def train_step(self, batches: Iterator[Batch]) -> tuple[list[Tensor], Tensor | None]:
        """One optimiser step: gradients, guard, update, moving average.

        Returns:
            the targets of the last micro-batch, and the norm of the gradient, or none if the update was skipped.

        Raises:
            MicroBatchTooLargeError: memory ran out before the update; weights and step are as they were.
            UserError: the gradient is not finite and the configuration, or the number of such steps, says stop.
        """
        set_hyperparameters(self.optimizer, self.schedules.lr(self.step), self.schedules.weight_decay(self.step))
        micro_batches, targets = self._accumulate(batches)
        norm = self._apply_gradient(micro_batches)
        if norm is not None:
            self.update_target(self.schedules.momentum(self.step))
        self.step += 1
        return targets, norm

    def _accumulate(self, batches: Iterator[Batch]) -> tuple[list[guard.MicroBatch], list[Tensor]]:
        """Forward and backward of all micro-batches of a step; returns them and the targets of the last one."""
        try:
            return self._gradients(batches)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "no memory left"
        # Out here, because the handler's traceback keeps every tensor of the failed pass alive.
        self.optimizer.zero_grad(set_to_none=True)
        raise MicroBatchTooLargeError(
            f"step {self.step}: out of memory on {self.device} with data.batch_size={self.batch_size} ({reason})"
        )

    def _gradients(self, batches: Iterator[Batch]) -> tuple[list[guard.MicroBatch], list[Tensor]]:
        steps = self.accumulation_steps
        seen: list[guard.MicroBatch] = []
        targets: list[Tensor] = []
        for micro in range(steps):
            waited = time.perf_counter()
            batch = next(batches)
            self._interval.waiting += time.perf_counter() - waited
            masks = self.masks(self.step, self._positions(micro, len(batch.images))).to(self.device)
            last = micro == steps - 1
            with distribution.synchronise_gradients(self.network, last):
                with self.precision.autocast():
                    output = self.network(batch.images, masks)
                    terms = self.objective(
                        output.predictions,
                        output.targets,
                        output.pooled,
                        log_scales=output.log_scales,
                        step=self.step,
                    )
                seen.append(guard.observe(batch, output, terms))
                total = terms.total * guard.poison([m.terms.total for m in seen]) if last else terms.total
                # Divided, so that the sum over micro-batches is the gradient of the large batch.
                self.precision.scaler.scale(total / steps).backward()  # type: ignore[no-untyped-call]
            targets = output.targets
        return seen, targets

    def _apply_gradient(self, micro_batches: list[guard.MicroBatch]) -> Tensor | None:
        """Clip and update; a gradient that is not finite touches neither the weights nor, later, the target."""
        self.precision.unscale(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.training.clip_grad or float("inf"))
        finite = bool(torch.isfinite(norm))
        if finite:
            self.precision.step(self.optimizer)
            self._skipped_in_a_row = 0
            for micro in micro_batches:
                self._interval.add(micro.terms)
        else:
            self._skip(micro_batches)
        self.precision.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm if finite else None

    def _skip(self, micro_batches: list[guard.MicroBatch]) -> None:
        """Count an update that is not made, and say what was wrong, unless it is only the loss scale that was."""
        self.skipped += 1
        scaler = self.precision.scaler
        broken = not all(bool(torch.isfinite(micro.terms.total)) for micro in micro_batches)
        if not distribution.any_process(broken) and scaler.is_enabled() and scaler.get_scale() > _LEAST_SCALE:
            # A GradScaler finds its scale by overshooting; that is no news.
            for micro in micro_batches:
                self._interval.add(micro.terms)
            return
        self._skipped_in_a_row += 1
        found = self.reports.write(
            self.step,
            micro_batches,
            self.model.named_parameters(),
            lr=self.schedules.lr(self.step),
            momentum=self.schedules.momentum(self.step),
            loss_scale=scaler.get_scale(),
        )
        stop = self.config.training.non_finite == "stop"
        log.warning("step %d: %s; the update is skipped", self.step, found)
        if not stop and self._skipped_in_a_row < _MOST_SKIPPED:
            return
        self._save_last()
        if stop:
            raise UserError(
                f"step {self.step}: {found}; stopped before the update (training.non_finite=stop); lower training.lr, set "
                "training.clip_grad, or look for broken images with `hjepa data check`"
            )
        raise UserError(
            f"step {self.step}: the gradient was not finite {_MOST_SKIPPED} times in a row ({found}); lower training.lr, "
            "set training.clip_grad, or look for broken images with `hjepa data check`"
        )

    def _step_down(self, error: MicroBatchTooLargeError) -> Iterator[Batch]:
        """Take the next rung of the ladder of smaller micro-batches; the effective batch stays.

        Returns:
            the batches from the same step on.

        Raises:
            UserError: no rung is left, or other processes would have to step down as well.
        """
        rung = next_rung(self.batch_size, self.accumulation_steps, fewest_images(self.config, self.world.size))
        if rung is None or self.world.size > 1:
            # Other processes wait in an exchange that this one will not join.
            advice = (
                "choose a smaller model or image size, or set training.use_amp or model.gradient_checkpointing"
                if rung is None
                else f"use data.batch_size={rung[0]} training.accumulation_steps={rung[1]}"
            )
            raise UserError(f"{error}; {advice}") from None
        log.warning(
            "%s; going on with micro-batches of %d x %d instead of %d x %d, %d images per update as before",
            error,
            *rung,
            self.batch_size,
            self.accumulation_steps,
            self.loader.global_batch,
        )
        if compares_images(self.config):
            log.warning("terms of the loss that compare the images of a micro-batch now see %d at a time", rung[0])
        self._split(*rung)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self.loader.batches(self.step, self.last_step)

    def _split(self, batch_size: int, accumulation_steps: int) -> None:
        self.batch_size, self.accumulation_steps = batch_size, accumulation_steps
        self.loader.split(batch_size, accumulation_steps)

    def _positions(self, micro: int, size: int) -> range:
        """Positions of this process's micro-batch in the global batch."""
        start = (micro * self.world.size + self.world.rank) * self.batch_size
        return range(start, start + size)

    # -- what happens beside it ----------------------------------------------------------------------------------

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.last_step

    def _look_after(self) -> None:
        """Evaluate and save where it is due."""
        spe = self.schedules.steps_per_epoch
        epoch, rest = divmod(self.step, spe)
        epoch_done = rest == 0
        ended = self.step == self.last_step
        evaluated = (epoch_done and epoch % self.config.evaluation.eval_frequency == 0) or ended
        if evaluated:
            self._evaluate()
        every = self.config.checkpoint.save_every_steps
        names = []
        if epoch_done and (epoch % self.config.checkpoint.save_frequency == 0):
            names.append(f"checkpoint_epoch_{epoch}.pth")
        if every is not None and self.step % every == 0:
            names.append(f"checkpoint_step_{self.step}.pth")
        if (names or evaluated) and self.world.is_main:
            started = time.perf_counter()
            self._settle_records()
            self.retention.save(self.state(), periodic=names, score=self._score(), best=evaluated)
            self._interval.started += time.perf_counter() - started

    def _save_last(self) -> None:
        if self.world.is_main:
            self._settle_records()
            self.retention.save_last(self.state())

    def _settle_records(self) -> None:
        # Records reach the disk before the checkpoint that follows them: a resumed run does not write them again.
        for sink in self.sinks:
            sink.settle()

    def _evaluate(self) -> None:
        if self.world.is_main:
            started = time.perf_counter()
            self._values = self.online(self.model)
            seconds = time.perf_counter() - started
            record = {"kind": "eval", "step": self.step, "epoch": self._epoch(), "time": self._elapsed()} | self._values
            self._write(record | {"seconds": seconds})
            knn = f"k-NN {self._values['knn']:.1%}  " if "knn" in self._values else ""
            log.info("step %d  online: %seffective rank %.1f", self.step, knn, self._values["rank"])
            # Evaluation is no training time: throughput leaves it out.
            self._interval.started += time.perf_counter() - started
        distribution.barrier()

    def _score(self) -> float:
        if not self._values and self.config.checkpoint.best_metric != "loss":
            return 0.0
        return score(self._values, self.config.checkpoint.best_metric, self.loss, self.model.embed_dim)

    # -- records -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._started = time.perf_counter()
        self._first = self._interval_step = self.step
        self._interval.started = self._started

    def reset_interval(self) -> None:
        """Begin a new interval of sums and times."""
        self._interval = Interval(started=time.perf_counter())
        self._interval_step = self.step

    @property
    def waited(self) -> float:
        """Seconds spent waiting for data in this interval."""
        return self._interval.waiting

    def _record(self, targets: list[Tensor], norm: Tensor | None) -> dict[str, Any]:
        """Write the record of the interval that ends here, and begin the next."""
        interval = self._interval
        assert interval.loss is not None
        assert interval.levels is not None
        n = interval.micro_batches
        names = list(interval.regularisers or {})
        values = torch.cat(
            [
                interval.loss.reshape(1),
                interval.levels,
                self.objective.chance(targets),
                *[v.reshape(1) for v in (interval.regularisers or {}).values()],
            ]
        )
        levels = len(interval.levels)
        values[: 1 + levels] /= n
        values[1 + 2 * levels :] /= n
        numbers = distribution.mean_over_processes(values).tolist()
        seconds = max(1e-9, time.perf_counter() - interval.started)
        steps = self.step - self._interval_step
        self.loss = numbers[0]
        record: dict[str, Any] = {
            "kind": "train",
            "step": self.step,
            "epoch": self._epoch(),
            "time": self._elapsed(),
            "loss": self.loss,
        }
        record |= {f"loss/level_{i}": numbers[1 + i] for i in range(levels)}
        record |= {f"chance/level_{i}": numbers[1 + levels + i] for i in range(levels)}
        record |= dict(zip(names, numbers[1 + 2 * levels :], strict=True))
        record |= {
            "lr": self.schedules.lr(self.step - 1),
            "momentum": self.schedules.momentum(self.step - 1),
            "weight_decay": self.schedules.weight_decay(self.step - 1),
            "grad_norm": None if norm is None else float(norm),
            "skipped": self.skipped,
            "bad_images": len(self.loader.dataset.bad_files),
            "images_per_second": steps * self.loader.global_batch / seconds,
            "data_wait": interval.waiting / seconds,
        }
        self._write(record)
        self.reset_interval()
        return record

    def _write(self, record: dict[str, Any]) -> None:
        if self.world.is_main:
            for sink in self.sinks:
                sink.write(record)

    def _epoch(self) -> float:
        return self.step / self.schedules.steps_per_epoch

    def _elapsed(self) -> float:
        return self._seconds + time.perf_counter() - self._started

    def _seconds_left(self) -> float:
        done = max(1, self.step - self._first)
        return (time.perf_counter() - self._started) / done * (self.last_step - self.step)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that going on needs, as tensors and plain values."""
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "epoch": self.step // self.schedules.steps_per_epoch,
            "step": self.step,
            "loss": self.loss,
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scaler_state_dict": self.precision.scaler.state_dict(),
            "config": self.config.model_dump(mode="json"),
            "data": self.data_state,
            "random": random,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "interval": self._interval.state(),
            "micro_batch": {"batch_size": self.batch_size, "accumulation_steps": self.accumulation_steps},
            "threads": torch.get_num_threads(),
            "compiled": self.compiled,
            "run": self.run_id,
            "online": dict(self._values),
            "seconds": self._elapsed(),
            "run_dir": str(self.run_dir),
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Go on from a checkpoint, bit by bit.

        Raises:
            CheckpointError: it belongs to another model or optimiser.
        """
        load_weights(self.model, state["model_state_dict"], path)
        load_optimizer(self.optimizer, state["optimizer_state_dict"], path)
        if self.precision.scaler.is_enabled() and state["scaler_state_dict"]:
            self.precision.scaler.load_state_dict(state["scaler_state_dict"])
        self.step = state["step"]
        self.loss = state["loss"]
        self.skipped = state["skipped"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        if state["interval"] is not None:
            self._interval.restore(state["interval"], self.device)
        self._restore_micro_batch(state)
        self._values = dict(state["online"])
        self._seconds = state["seconds"]
        self.retention.restore(state.get("retention", {"scores": {}, "best": None}))
        torch.set_rng_state(state["random"]["cpu"].cpu())
        if self.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"].cpu(), self.device)

    def _restore_micro_batch(self, state: dict[str, Any]) -> None:
        """A run that had to take smaller micro-batches keeps them, unless the configuration asks for other ones now."""
        before = state["config"]["data"]["batch_size"], state["config"]["training"]["accumulation_steps"]
        used = state["micro_batch"]["batch_size"], state["micro_batch"]["accumulation_steps"]
        if before == (self.batch_size, self.accumulation_steps) != used:
            log.info("going on with micro-batches of %d x %d, as memory ran out with %d x %d", *used, *before)
            self._split(*used)


def build_sampler(config: Config) -> MaskSampler:
    """The mask sampler of a configuration. Raises `UserError` when the grid is too small for its masks."""
    geometry = config.geometry()
    strides = [level.stride for level in geometry.levels]
    return MaskSampler(config.masking, geometry.grid, strides, seed=config.seed)


def build_objective(config: Config) -> Objective:
    """The objective of a configuration."""
    loss = config.loss
    levels = len(config.geometry().levels)
    return Objective(
        loss.type,
        loss.hierarchy_weights or [1.0] * levels,
        normalize=loss.normalize_embeddings,
        temperature=loss.temperature,
        variance=loss.variance_loss_weight,
        covariance=loss.covariance_loss_weight,
        sliced_gaussian=loss.sliced_gaussian_weight,
        regularise_all=loss.regularised_levels == "all",
        gather=distribution.gather_rows,
        seed=config.seed,
    )


def compares_images(config: Config) -> bool:
    """Whether the loss has terms that compare the images of a micro-batch with each other."""
    loss = config.loss
    regularised = loss.variance_loss_weight or loss.covariance_loss_weight or loss.sliced_gaussian_weight
    return bool(regularised) or loss.type == "infonce" or config.model.center_targets


def fewest_images(config: Config, processes: int) -> int:
    """Images that a forward pass of one process needs, so that such terms mean something."""
    loss = config.loss
    if loss.variance_loss_weight or loss.covariance_loss_weight or loss.sliced_gaussian_weight:
        return -(-SMALLEST_REGULARISED_BATCH // (processes * config.masking.sets_per_image))
    return 2 if config.model.center_targets else 1
