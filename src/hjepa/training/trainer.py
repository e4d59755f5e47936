"""The training loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hjepa.errors import DivergenceError
from hjepa.runs.load import load_weights
from hjepa.runs.sharded import load_shards, read_sharded
from hjepa.runtime import distribution
from hjepa.training import guard
from hjepa.training.distributed.state import gather_process_states, restore_process_state
from hjepa.training.distributed.strategy import Strategy, let_go, spread, synchronise_gradients
from hjepa.training.interval import Interval
from hjepa.training.ladder import agree_on_micro_batch, step_down
from hjepa.training.memory import MicroBatchTooLargeError, is_out_of_memory
from hjepa.training.online import OnlineEvaluation, score
from hjepa.training.optim.build import build_optimizer, load_optimizer, set_hyperparameters
from hjepa.training.optim.schedules import Schedules
from hjepa.training.parts import build_objective, build_sampler
from hjepa.training.precision import Precision
from hjepa.training.saving import Retention
from hjepa.training.skipping import SkippedUpdates
from hjepa.training.update import Update

if TYPE_CHECKING:
    from pathlib import Path

    from hjepa.config import Config
    from hjepa.data import Batch, TrainLoader
    from hjepa.models import HJEPA
    from hjepa.training.interrupt import StopRequest
    from hjepa.training.loggers import MetricSink
    from hjepa.training.progress import Progress

log = logging.getLogger("hjepa")


class Trainer:
    """Trains a model.

    Args:
        config: the configuration.
        model: in one piece; the trainer brings it to its device, whole or in part.
        loader: micro-batches of training images.
        online: evaluation during training.
        retention: checkpoints.
        sinks: where records go.
        world: this process among all.
        data_state: what a checkpoint must know of the data (`channels`, `mean`, `std`).
        run_dir: the run folder, recorded in checkpoints.
        run: identity of the run, recorded in checkpoints.
        compiled: whether the networks are compiled; as `training.compile` says when not given, `auto` being no.
        strategy: how the model is spread over processes.
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
        strategy: Strategy = "ddp",
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
        self.device = loader.device
        self.schedules = Schedules(config, loader.steps_per_epoch, loader.global_batch)
        self.masks = build_sampler(config)
        self.objective = build_objective(config)
        self.compiled = config.training.compile is True if compiled is None else compiled
        self.strategy = strategy
        self.network: nn.Module = spread(model, strategy, config, self.device, compiled=self.compiled)
        # After the model was spread: with fsdp its parameters are others than before.
        self.optimizer = build_optimizer(model, config.training)
        self.precision = Precision(config.training, self.device)
        self.skips = SkippedUpdates(config.training.non_finite, run_dir, loader.dataset.identifiers, world.rank)
        self.update = Update(model, self.optimizer, self.precision, config.training, strategy, self.skips)
        self.step = 0
        self.loss = float("nan")
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
        agree_on_micro_batch(self)
        batches = self.loader.batches(self.step, self.last_step)
        self._begin()
        while self.step < self.last_step:
            try:
                targets, norm = self.train_step(batches)
            except MicroBatchTooLargeError as error:
                # The same step again, in smaller pieces.
                batches = step_down(self, error)
                continue
            progress.advance(self.step)
            if self._due(self.config.logging.log_frequency):
                self._settle()
                if self._interval.micro_batches:
                    progress.report(self._record(targets, norm), self._seconds_left())
            self._look_after()
            if distribution.any_process(stop.requested):
                break
        self._save_last()
        if self._saves:
            self.retention.ensure_best()
        distribution.barrier()
        return self.step >= self.last_step

    def train_step(self, batches: Iterator[Batch]) -> tuple[list[Tensor], Tensor | None]:
        """One optimiser step: gradients, guard, update, moving average.

        Returns:
            the targets of the last micro-batch, and the norm of the gradient, or none if the update was skipped. On a GPU
            the norm may still say so itself, by not being finite.

        Raises:
            MicroBatchTooLargeError: memory ran out before the update; weights and step are as they were.
            UserError: the gradient is not finite and the configuration, or the number of such steps, says stop.
        """
        set_hyperparameters(self.optimizer, self.schedules.lr(self.step), self.schedules.weight_decay(self.step))
        micro_batches, targets = self._accumulate(batches)
        norm = self.update(
            self.step,
            micro_batches,
            self._interval,
            lr=self.schedules.lr(self.step),
            momentum=self.schedules.momentum(self.step),
        )
        self._go_on()
        self.step += 1
        if self.update.is_full:
            self._settle()
        return targets, norm

    def _accumulate(self, batches: Iterator[Batch]) -> tuple[list[guard.MicroBatch], list[Tensor]]:
        """Forward and backward of all micro-batches of a step; returns them and the targets of the last one."""
        try:
            return self._gradients(batches)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            problem = self._ran_out(error)
        # Out here, because the handler's traceback keeps every tensor of the failed pass alive.
        self.optimizer.zero_grad(set_to_none=True)
        raise MicroBatchTooLargeError(problem)

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
            with synchronise_gradients(self.network, last):
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

    def try_micro_batch(self) -> str | None:
        """Forward and backward of one micro-batch by this process alone; nothing changes, and no process waits for it.

        Returns:
            what was said when memory ran out, if it did.
        """
        batch = next(self.loader.batches(self.step, self.last_step))
        masks = self.masks(self.step, self._positions(0, len(batch.images))).to(self.device)
        alone = build_objective(self.config, gather=None)
        problem = None
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            try:
                self.model.alone = True
                with self.precision.autocast():
                    # The model itself, not what spreads it: its hooks would exchange gradients.
                    output = self.model(batch.images, masks)
                    terms = alone(output.predictions, output.targets, output.pooled, log_scales=output.log_scales)
                terms.total.backward()  # type: ignore[no-untyped-call]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                problem = self._ran_out(error)
            finally:
                self.model.alone = False
        self.optimizer.zero_grad(set_to_none=True)
        return problem

    def _ran_out(self, error: BaseException) -> str:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no memory left"
        return f"step {self.step}: out of memory on {self.device} with data.batch_size={self.batch_size} ({reason})"

    def _settle(self) -> None:
        """Learn which updates were skipped since the last time."""
        self.update.settle(self._interval)
        self._go_on()

    def _go_on(self) -> None:
        """Raise `DivergenceError` if the run is lost, its last good state saved."""
        if self.update.lost is not None:
            self._save_last()
            raise DivergenceError(self.update.lost)

    def split(self, batch_size: int, accumulation_steps: int) -> None:
        """Go on with micro-batches of another size; the effective batch stays."""
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
            try:
                self._evaluate()
            except Exception:
                if self.world.size == 1:
                    # Whatever the evaluation met, what was trained is kept. Several processes would wait for each other.
                    self._save_last()
                raise
        every = self.config.checkpoint.save_every_steps
        names = []
        if epoch_done and (epoch % self.config.checkpoint.save_frequency == 0):
            names.append(self.retention.file(f"checkpoint_epoch_{epoch}"))
        if every is not None and self.step % every == 0:
            names.append(self.retention.file(f"checkpoint_step_{self.step}"))
        if names or evaluated:
            started = time.perf_counter()
            self._settle()
            # All processes: each has a part of the state.
            state = self.state()
            if self._saves:
                self._settle_records()
                self.retention.save(state, periodic=names, score=self._score(), best=evaluated)
            self._interval.started += time.perf_counter() - started

    @property
    def _saves(self) -> bool:
        return self.world.is_main or self.retention.together

    def _save_last(self) -> None:
        state = self.state()
        if self._saves:
            self._settle_records()
            self.retention.save_last(state)

    def _settle_records(self) -> None:
        # Records reach the disk before the checkpoint that follows them: a resumed run does not write them again.
        for sink in self.sinks:
            sink.settle()

    def _evaluate(self) -> None:
        started = time.perf_counter()
        if self.world.is_main or self.strategy == "fsdp":
            # A model in parts answers only to all processes at once.
            self._values = self.online(self.model)
            let_go(self.network)
        if self.world.is_main:
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
        means = interval.means(self.objective.chance(targets))
        seconds = max(1e-9, time.perf_counter() - interval.started)
        steps = self.step - self._interval_step
        self.loss = means["loss"]
        record: dict[str, Any] = {"kind": "train", "step": self.step, "epoch": self._epoch(), "time": self._elapsed()}
        record |= means
        record |= {
            "lr": self.schedules.lr(self.step - 1),
            "momentum": self.schedules.momentum(self.step - 1),
            "weight_decay": self.schedules.weight_decay(self.step - 1),
            "grad_norm": norm.item() if norm is not None and math.isfinite(norm) else None,
            "skipped": self.skips.count,
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
        """Everything that going on needs, as tensors and plain values. All processes call it."""
        self.update.settle(self._interval)
        processes = gather_process_states(self._interval, self.device)
        return {
            "epoch": self.step // self.schedules.steps_per_epoch,
            "step": self.step,
            "loss": self.loss,
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scaler_state_dict": self.precision.scaler.state_dict(),
            "config": self.config.model_dump(mode="json"),
            "data": self.data_state,
            **processes[0],
            "processes": processes[1:],
            "skipped": self.skips.count,
            "skipped_in_a_row": self.skips.in_a_row,
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
        if "shards" in state and self.strategy == "fsdp":
            load_shards(path, state, self.model, self.optimizer)
        else:
            if "shards" in state:
                state = read_sharded(path, verify=False)
            load_weights(self.model, state["model_state_dict"], path)
            load_optimizer(self.optimizer, state["optimizer_state_dict"], path)
        if self.precision.scaler.is_enabled() and state["scaler_state_dict"]:
            self.precision.scaler.load_state_dict(state["scaler_state_dict"])
        self.step = state["step"]
        self.loss = state["loss"]
        self.skips.count = state["skipped"]
        self.skips.in_a_row = state["skipped_in_a_row"]
        first = {"random": state["random"], "interval": state["interval"]}
        restore_process_state([first, *state.get("processes", ())], self._interval, self.device, self.world)
        self._restore_micro_batch(state)
        self._values = dict(state["online"])
        self._seconds = state["seconds"]
        self.retention.restore(state.get("retention", {"scores": {}, "best": None}))

    def _restore_micro_batch(self, state: dict[str, Any]) -> None:
        """A run that had to take smaller micro-batches keeps them, unless the configuration asks for other ones now."""
        before = state["config"]["data"]["batch_size"], state["config"]["training"]["accumulation_steps"]
        used = state["micro_batch"]["batch_size"], state["micro_batch"]["accumulation_steps"]
        if before == (self.batch_size, self.accumulation_steps) != used:
            log.info("going on with micro-batches of %d x %d, as memory ran out with %d x %d", *used, *before)
            self.split(*used)
