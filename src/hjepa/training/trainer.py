"""The training loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hjepa.errors import DivergenceError, HealthError
from hjepa.health.measures import record_of
from hjepa.methods import Horizon
from hjepa.runs.load import load_weights
from hjepa.runs.locate import read_start
from hjepa.runs.sharded import load_shards, read_sharded
from hjepa.runtime import distribution
from hjepa.runtime.usage import Usage
from hjepa.training import nonfinite
from hjepa.training.distributed.state import gather_process_states, restore_process_state
from hjepa.training.distributed.strategy import Strategy, let_go, spread, synchronise_gradients
from hjepa.training.early_stopping import EarlyStopping
from hjepa.training.online import OnlineEvaluation, score
from hjepa.training.optim.build import build_optimizer, load_optimizer, set_hyperparameters
from hjepa.training.optim.schedules import Schedules
from hjepa.training.out_of_memory import MicroBatches, MicroBatchTooLargeError, is_out_of_memory
from hjepa.training.precision import Precision
from hjepa.training.saving import LAST_GOOD
from hjepa.training.step import Interval, Update
from hjepa.training.watch import MOST_REWINDS, Remedies

if TYPE_CHECKING:
    from pathlib import Path

    from hjepa.config import Config
    from hjepa.data import Batch, TrainLoader
    from hjepa.methods import Method
    from hjepa.training.interrupt import StopRequest
    from hjepa.training.loggers import MetricSink
    from hjepa.training.progress import Display
    from hjepa.training.saving import Retention
    from hjepa.training.watch import HealthWatch

log = logging.getLogger("hjepa")


@dataclass(frozen=True)
class TrainerParts:
    """Components of a trainer, built by `hjepa.training.build.assemble`.

    Attributes:
        config: the configuration.
        method: not yet distributed; the trainer moves it to the device, or shards it.
        loader: micro-batches of training images.
        online: evaluation during training.
        watch: judges records and evaluations, and decides on actions.
        retention: writes and keeps checkpoints.
        sinks: destinations of records.
        world: rank and number of processes.
        data_state: properties of the data that a checkpoint stores (`channels`, `mean`, `std`).
        run_dir: the run folder, recorded in checkpoints.
        run: identity of the run, recorded in checkpoints.
        compiled: whether the networks are compiled.
        strategy: how the method is distributed over processes.
    """

    config: Config
    method: Method
    loader: TrainLoader
    online: OnlineEvaluation
    watch: HealthWatch
    retention: Retention
    sinks: list[MetricSink]
    world: distribution.World
    data_state: dict[str, Any]
    run_dir: Path
    run: str = ""
    compiled: bool = False
    strategy: Strategy = "ddp"


class Trainer:
    """Trains a method step by step, and evaluates and saves when due.

    Args:
        parts: its components.
    """

    def __init__(self, parts: TrainerParts) -> None:
        self.parts = parts
        self.config = config = parts.config
        self.method = parts.method
        self.loader = loader = parts.loader
        self.world = parts.world
        self.device = loader.device
        self.schedules = Schedules(config, loader.steps_per_epoch, loader.global_batch)
        self.method.start(Horizon(loader.steps_per_epoch, self.schedules.total_steps))
        self.micro = MicroBatches(
            config.data.batch_size,
            config.training.accumulation_steps,
            self.method.fewest_images(self.world.size),
            self.method.compares_images,
            self.world,
            self.device,
        )
        self.network: nn.Module = spread(self.method, parts.strategy, config, self.device, compiled=parts.compiled)
        # After `spread`, which replaces the parameters if the strategy is fsdp.
        self.optimizer = build_optimizer(self.method, config.training)
        self.precision = Precision(config.training, self.device)
        self.skips = nonfinite.SkippedUpdates(
            config.training.non_finite, parts.run_dir, loader.dataset.identifiers, self.world.rank
        )
        self.update = Update(self.method, self.optimizer, self.precision, config.training, parts.strategy, self.skips)
        self.watch = parts.watch
        self.early = EarlyStopping(config.training.early_stopping)
        self.usage = Usage(parts.retention.folder, self.device)
        self.step = 0
        self.loss = float("nan")
        self._values: dict[str, float] = {}
        self._seconds = 0.0
        self.reset_interval()

    @property
    def last_step(self) -> int:
        """Step at which this run ends."""
        total = self.schedules.total_steps
        return min(total, self.config.training.max_steps or total)

    # -- the algorithm -------------------------------------------------------------------------------------------

    def run(self, stop: StopRequest, progress: Display) -> bool:
        """Train to the last step, or until a stop is requested. Returns whether the last step was reached."""
        self.method.train()
        self._agree_on_micro_batches()
        batches = self.loader.batches(self.step, self.last_step)
        self._measure_untrained()
        self._begin()
        while self.step < self.last_step:
            try:
                norm = self.train_step(batches)
            except MicroBatchTooLargeError as error:
                # Repeat the step with smaller micro-batches.
                self.micro.shrink(str(error))
                batches = self._divide_again()
                continue
            progress.advance(self.step)
            if self._records_here or self.step == self.last_step:
                self._settle()
                if self._interval.micro_batches:
                    progress.report(self._record(norm), self._seconds_left())
            if self._look_after():
                batches = self.loader.batches(self.step, self.last_step)
            if distribution.any_process(stop.requested or self.early.reason is not None):
                break
        self._save_last()
        if self._saves:
            self.parts.retention.ensure_best()
        distribution.barrier()
        return self.step >= self.last_step

    def train_step(self, batches: Iterator[Batch]) -> Tensor | None:
        """One optimiser step: gradients, finiteness check, update, `after_update`.

        Returns:
            gradient norm; None if the update was skipped. On a GPU a skipped update may return a non-finite norm
            instead, as the host does not know yet.

        Raises:
            MicroBatchTooLargeError: memory ran out before the update; weights and step are unchanged.
            DivergenceError: the gradient is not finite, and `training.non_finite` or the number of such steps in a row
                requires a stop.
        """
        lr = self.lr(self.step)
        set_hyperparameters(self.optimizer, lr, self.schedules.weight_decay(self.step))
        micro_batches = self._accumulate(batches)
        facts = {"lr": lr, **self.method.hyperparameters(self.step)}
        norm = self.update(self.step, micro_batches, self._interval, facts)
        self._go_on()
        self.step += 1
        if self.update.is_full:
            self._settle()
        return norm

    def _accumulate(self, batches: Iterator[Batch]) -> list[nonfinite.MicroBatch]:
        """Forward and backward passes of all micro-batches of a step."""
        try:
            return self._gradients(batches)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            problem = self.micro.too_large(self.step, error)
        # Outside the handler, whose traceback keeps every tensor of the failed pass alive.
        self.optimizer.zero_grad(set_to_none=True)
        raise MicroBatchTooLargeError(problem)

    def _gradients(self, batches: Iterator[Batch]) -> list[nonfinite.MicroBatch]:
        seen: list[nonfinite.MicroBatch] = []
        for number in range(self.micro.steps):
            waited = time.perf_counter()
            batch = next(batches)
            self._interval.waiting += time.perf_counter() - waited
            plan = self._plan(number, batch)
            last = number == self.micro.steps - 1
            with synchronise_gradients(self.network, last):
                with self.precision.autocast():
                    output = self.network(batch, plan, self.step)
                seen.append(nonfinite.observe(batch, output))
                total = output.total
                if last:
                    total = total * nonfinite.poison([micro.total for micro in seen])
                # Divided, so that the sum over micro-batches is the gradient of the whole batch.
                self.precision.scaler.scale(total / self.micro.steps).backward()
        return seen

    def _plan(self, number: int, batch: Batch) -> Any:
        """The method's plan for a micro-batch, on the device."""
        start = (number * self.world.size + self.world.rank) * self.micro.batch_size
        plan = self.method.plan(self.step, range(start, start + len(batch.images)))
        return None if plan is None else plan.to(self.device)

    # -- memory --------------------------------------------------------------------------------------------------

    def _agree_on_micro_batches(self) -> None:
        # With fsdp every pass is collective, so one process cannot try alone.
        if self.world.size == 1 or self.parts.strategy == "fsdp":
            return
        while self.micro.agree(self.step, self._try_micro_batch):
            self._divide_again()

    def _try_micro_batch(self) -> str | None:
        """Run one micro-batch in this process without collectives and discard the gradients.

        Returns:
            the message if memory ran out, else None.
        """
        batch = next(self.loader.batches(self.step, self.last_step))
        plan = self._plan(0, batch)
        problem = None
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self.method.alone():
            try:
                with self.precision.autocast():
                    # The method itself, not its DDP wrapper, whose hooks would all-reduce the gradients.
                    output = self.method(batch, plan, self.step)
                output.total.backward()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                problem = self.micro.too_large(self.step, error)
        self.optimizer.zero_grad(set_to_none=True)
        return problem

    def _divide_again(self) -> Iterator[Batch]:
        """Batches from the current step on, at the new micro-batch size; the effective batch size is unchanged."""
        self.loader.split(self.micro.batch_size, self.micro.steps)
        return self.loader.batches(self.step, self.last_step)

    # -- skipped updates -----------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Find out which updates were skipped since the last call."""
        self.update.settle(self._interval)
        self._go_on()

    def _go_on(self) -> None:
        """If the run has diverged, save its last good state and raise `DivergenceError`."""
        if self.update.lost is not None:
            self._save_last()
            raise DivergenceError(self.update.lost)

    # -- evaluation and saving -----------------------------------------------------------------------------------

    @property
    def _records_here(self) -> bool:
        """Whether a record is due at this step, wherever the run ends."""
        return self.step % self.config.logging.log_frequency == 0

    @property
    def _evaluates_here(self) -> bool:
        """Whether an online evaluation is due at this step, wherever the run ends."""
        return self._ends_epochs(self.config.evaluation.eval_frequency)

    def _ends_epochs(self, every: int) -> bool:
        """Whether this step ends an epoch whose number is a multiple of `every`."""
        return self.step % (every * self.schedules.steps_per_epoch) == 0

    def _look_after(self) -> bool:
        """Evaluate, act on the health of the run, and save, as far as due.

        Returns:
            whether the run went back to an earlier step.
        """
        evaluated = self._evaluates_here or self.step == self.last_step
        if evaluated:
            try:
                self._evaluate()
            except Exception:
                if self.world.size == 1:
                    # Keep what was trained. With several processes the save is collective and would deadlock.
                    self._save_last()
                raise
        # Before saving, so that a run resumed from this step has taken the same actions.
        if self._tend():
            return True
        every = self.config.checkpoint.save_every_steps
        names = []
        if self._ends_epochs(self.config.checkpoint.save_frequency):
            epoch = self.step // self.schedules.steps_per_epoch
            names.append(self.parts.retention.file(f"checkpoint_epoch_{epoch}"))
        if every is not None and self.step % every == 0:
            names.append(self.parts.retention.file(f"checkpoint_step_{self.step}"))
        if names or evaluated:
            started = time.perf_counter()
            self._settle()
            keeps_good = "rewind" in self.watch.actions and self.watch.good
            # All processes call it: each holds a part of the state.
            state = self.state()
            if self._saves:
                self._settle_records()
                also = [self.parts.retention.file(LAST_GOOD)] if keeps_good else []
                self.parts.retention.save(state, periodic=names, score=self._score(), best=evaluated, also=also)
            self._interval.started += time.perf_counter() - started
        return False

    @property
    def _saves(self) -> bool:
        return self.world.is_main or self.parts.retention.together

    def _save_last(self) -> None:
        state = self.state()
        if self._saves:
            self._settle_records()
            self.parts.retention.save_last(state)

    def _settle_records(self) -> None:
        # Records must reach the disk before the checkpoint, as a resumed run does not write them again.
        for sink in self.parts.sinks:
            sink.settle()

    def close(self) -> None:
        """Flush and close the sinks, and wait for alerts on their way."""
        self.watch.close()
        for sink in self.parts.sinks:
            sink.close()

    def _evaluate(self) -> None:
        started = time.perf_counter()
        if self.world.is_main or self.parts.strategy == "fsdp":
            # Passes of a sharded model are collective: all processes must take part.
            result = self.parts.online(self.method.encoder)
            self._values = result.values
            let_go(self.network)
        if self.world.is_main:
            seconds = {"seconds": time.perf_counter() - started}
            judged = self.watch.evaluation(result, counts=self._evaluates_here)
            record = self._place("eval") | result.values | judged | seconds
            self._write(record)
            log.info("step %d  online: %s  health %s", self.step, result, judged["health"])
            if self._evaluates_here and self.early.see(record) and self.step < self.last_step:
                rates = self.lr(self.step - 1), self.schedules.peak_lr
                self._write(self.early.record(self._place("early_stop"), *rates, self.last_step))
            # Throughput excludes the time of evaluation.
            self._interval.started += time.perf_counter() - started
        distribution.barrier()

    def _score(self) -> float:
        if not self._values and self.config.checkpoint.best_metric != "loss":
            return 0.0
        return score(self._values, self.config.checkpoint.best_metric, self.loss, self.method.encoder.embed_dim)

    # -- health --------------------------------------------------------------------------------------------------

    def lr(self, step: int) -> float:
        """Learning rate of a step: the schedule, lowered by health actions."""
        return self.schedules.lr(step) * self.watch.remedies.lr

    def _measure_untrained(self) -> None:
        """Measure the features before the first step; those of the run are compared with them."""
        if self.step:
            return
        started = time.perf_counter()
        if self.parts.strategy == "fsdp":
            self._pass_forward()
        if self.world.is_main or self.parts.strategy == "fsdp":
            levels = self.watch.monitor.untrained = self.parts.online.measures(self.method.encoder)
            seconds = {"seconds": time.perf_counter() - started}
            self._write({"kind": "untrained", "step": 0, "epoch": 0.0, "time": 0.0} | record_of(levels) | seconds)
            let_go(self.network)
        distribution.barrier()

    def _pass_forward(self) -> None:
        """One forward pass of the whole network, before which FSDP refuses to run a part of it. Changes nothing."""
        batch = next(self.loader.batches(self.step, self.last_step))
        plan = self._plan(0, batch)
        devices = [self.device] if self.device.type == "cuda" else []
        self.network.eval()
        with torch.random.fork_rng(devices=devices), torch.no_grad(), self.precision.autocast():
            self.network(batch, plan, self.step)
        self.network.train()
        let_go(self.network)

    def _tend(self) -> bool:
        """Take actions if they are due. Returns whether the run went back to an earlier step."""
        if not (self._records_here or self._evaluates_here):
            return False
        health = self.watch.verdict(self.step)
        if health is None or not self.watch.actions:
            return False
        actions, at = self.watch.actions, self.step
        if "save" in actions:
            self._save_beside(f"checkpoint_red_step_{at}")
        self._change(self.watch.remedies.after(actions))
        back = "rewind" in actions and self._rewind()
        done = [action for action in actions if action != "rewind" or back]
        # After a rewind the step is that of the checkpoint, so that a resumed run keeps the record.
        record = self._place("health") | {"at": at}
        signs = [sign.as_dict() for sign in health.signs]
        self._write(record | {"light": int(health.light), "signs": signs, "actions": done})
        log.warning("health: actions at step %d: %s", at, ", ".join(done) or "none")
        if "stop" in actions:
            self._save_last()
            raise HealthError(
                f"health: red at step {at}: {health.reason} ({health.signs[0].rule}); stopped because health.actions has "
                f"stop. Change the setting that causes it and start again, or resume without stop in health.actions"
            )
        return back

    def _change(self, remedies: Remedies) -> None:
        self.watch.remedies = remedies
        self.method.momentum_gap = remedies.momentum_gap

    def _save_beside(self, name: str) -> None:
        state = self.state()
        if self._saves:
            self._settle_records()
            self.parts.retention.save(state, also=[self.parts.retention.file(name)])

    def _rewind(self) -> bool:
        """Go back to the last checkpoint whose health was not red. Returns whether there was one."""
        retention, before = self.parts.retention, self.watch.remedies
        retention.wait()
        path = retention.folder / retention.file(LAST_GOOD)
        if before.rewinds >= MOST_REWINDS or not distribution.from_main(path.exists()):
            why = f"{before.rewinds} have not helped" if before.rewinds else "no checkpoint has a light that is not red"
            log.warning("health: not going back to an earlier checkpoint: %s", why)
            return False
        state = read_start(path, verify=False)
        # What is on the disk does not go back.
        kept = retention.state()
        self.restore(state, path, int(state["step"]))
        retention.restore(kept)
        self._change(before.after_rewind_to(self.watch.remedies))
        self._begin()
        self.reset_interval()
        return True

    # -- records -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._started = time.perf_counter()
        self._first = self._interval_step = self.step
        self._interval.started = self._started

    def reset_interval(self) -> None:
        """Begin a new logging interval."""
        self._interval = Interval(started=time.perf_counter())
        self._interval_step = self.step

    @property
    def waited(self) -> float:
        """Seconds spent waiting for data in this logging interval."""
        return self._interval.waiting

    def _record(self, norm: Tensor | None) -> dict[str, Any]:
        """Write the record of this interval and begin the next."""
        interval = self._interval
        means = interval.means(self.method.diagnostics())
        seconds = max(1e-9, time.perf_counter() - interval.started)
        steps = self.step - self._interval_step
        self.loss = means["loss"]
        record = (
            self._place("train")
            | means
            | {
                "lr": self.lr(self.step - 1),
                **self.method.hyperparameters(self.step - 1),
                "weight_decay": self.schedules.weight_decay(self.step - 1),
                "grad_norm": norm.item() if norm is not None and math.isfinite(norm) else None,
                "skipped": self.skips.count,
                "bad_images": len(self.loader.dataset.bad_files),
                "images_per_second": steps * self.loader.global_batch / seconds,
                "data_wait": interval.waiting / seconds,
                **self.usage.read(),
            }
        )
        terms = {name: means[name] for name in interval.sums}
        progress = self.step / self.schedules.total_steps
        record |= self.watch.record(record, terms, progress, counts=self._records_here)
        self._write(record)
        self.reset_interval()
        return record

    def _write(self, record: dict[str, Any]) -> None:
        if self.world.is_main:
            for sink in self.parts.sinks:
                sink.write(record)

    def _place(self, kind: str) -> dict[str, Any]:
        """What every record begins with."""
        return {"kind": kind, "step": self.step, "epoch": self._epoch(), "time": self.elapsed}

    def _epoch(self) -> float:
        return self.step / self.schedules.steps_per_epoch

    @property
    def elapsed(self) -> float:
        """Seconds of training, including online evaluations and checkpoints."""
        return self._seconds + time.perf_counter() - self._started

    def _seconds_left(self) -> float:
        done = max(1, self.step - self._first)
        return (time.perf_counter() - self._started) / done * (self.last_step - self.step)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything needed to resume, as tensors and plain values. All processes must call it."""
        self.update.settle(self._interval)
        processes = gather_process_states(self._interval, self.device)
        return {
            "epoch": self.step // self.schedules.steps_per_epoch,
            "step": self.step,
            "loss": self.loss,
            "model_state_dict": self.method.weights.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scaler_state_dict": self.precision.scaler.state_dict(),
            "config": self.config.model_dump(mode="json"),
            "data": self.parts.data_state,
            **processes[0],
            "processes": processes[1:],
            "skipped": self.skips.count,
            "skipped_in_a_row": self.skips.in_a_row,
            "micro_batch": {"batch_size": self.micro.batch_size, "accumulation_steps": self.micro.steps},
            "global_batch": self.loader.global_batch,
            "steps_per_epoch": self.schedules.steps_per_epoch,
            "threads": torch.get_num_threads(),
            "compiled": self.parts.compiled,
            "run": self.parts.run,
            "online": dict(self._values),
            "health": self.watch.state(),
            "early_stopping": self.early.state(),
            "seconds": self.elapsed,
            "run_dir": str(self.parts.run_dir),
        }

    def restore(self, state: dict[str, Any], path: Path, step: int) -> None:
        """Resume from a checkpoint, bit-exactly.

        Args:
            state: contents of the checkpoint.
            path: the checkpoint.
            step: step to resume from, counted in this run's batch size (`hjepa.training.resume`).

        Raises:
            CheckpointError: the checkpoint belongs to another model or optimiser.
        """
        if "shards" in state and self.parts.strategy == "fsdp":
            load_shards(path, state, self.method.weights, self.optimizer)
        else:
            if "shards" in state:
                state = read_sharded(path, verify=False)
            load_weights(self.method.weights, state["model_state_dict"], path)
            load_optimizer(self.optimizer, state["optimizer_state_dict"], path)
        if self.precision.scaler.is_enabled() and state["scaler_state_dict"]:
            self.precision.scaler.load_state_dict(state["scaler_state_dict"])
        self.step = step
        self.loss = state["loss"]
        self.skips.count = state["skipped"]
        self.skips.in_a_row = state["skipped_in_a_row"]
        first = {"random": state["random"], "interval": state["interval"]}
        restore_process_state([first, *state.get("processes", ())], self._interval, self.device, self.world)
        if self.micro.restore(state):
            self.loader.split(self.micro.batch_size, self.micro.steps)
        self._values = dict(state["online"])
        if "health" in state:  # checkpoints of earlier versions have none
            self.watch.restore(state["health"])
            self._change(self.watch.remedies)
        self.early.restore(state.get("early_stopping", {}))
        self._seconds = state["seconds"]
        self.parts.retention.restore(state.get("retention", {"scores": {}, "best": None}))
