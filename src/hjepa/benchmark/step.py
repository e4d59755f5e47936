"""Time the whole training step and compare it with the machine's peak throughput."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from hjepa.data import build_dataset, random_dataset
from hjepa.runs.folder import RunFolder
from hjepa.runtime.device import configure_backend, resolve_device
from hjepa.runtime.distribution import World
from hjepa.runtime.peak import matmul_peak, synchronise
from hjepa.training.build import assemble
from hjepa.training.cost import counted_cost, training_cost
from hjepa.training.precision import settle_precision

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.models.cost import StepCost
    from hjepa.training.trainer import Trainer


@dataclass(frozen=True)
class StepBenchmark:
    """Results of `hjepa bench`.

    Attributes:
        images_per_second: throughput of whole training steps, including data loading.
        flop_per_image: computed from sizes, see `StepCost`; None if the method does not count its FLOP, and then so are
            `achieved_flops` and `peak_share`, and the next two are empty.
        flop_share: FLOP per image of target, context, predictor, loss and optimiser.
        tokens: tokens per image that each part processes.
        achieved_flops: FLOP/s of the training step.
        peak_flops: FLOP/s of large matrix products, measured in the same process before and after.
        peak_share: the first as a share of the second.
        data_wait: share of the time spent waiting for data.
        batch, accumulation, steps: images per forward pass, forward passes per step, steps timed.
        device, threads, precision, compiled, data: conditions of the measurement.
    """

    images_per_second: float
    flop_per_image: float | None
    flop_share: dict[str, float]
    tokens: dict[str, int]
    achieved_flops: float | None
    peak_flops: float
    peak_share: float | None
    data_wait: float
    batch: int
    accumulation: int
    steps: int
    device: str
    threads: int
    precision: str
    compiled: bool
    data: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class TimedStep:
    """A trainer whose steps are timed one by one. Writes no files.

    Args:
        config: the configuration; its data set is read unless `synthetic`.
        synthetic: random pictures of the model's size instead of the data set; they pass through the same loader.

    Attributes:
        trainer: the trainer.
        data: name of the data set.
        dtype: type of the matrix products.
    """

    def __init__(self, config: Config, *, synthetic: bool = False) -> None:
        self.device = resolve_device(config.device)
        configure_backend(config.training, self.device)
        self.config = config = settle_precision(config, self.device)
        self.trainer, self.data = _trainer(config, self.device, synthetic)
        self.dtype = self.trainer.precision.dtype if config.training.use_amp else torch.float32
        self.batches = self.trainer.loader.batches(0, 10**9)

    @property
    def cost(self) -> StepCost:
        """FLOP per image of one step.

        Raises:
            UserError: the method does not count them.
        """
        return training_cost(self.config, self.trainer.method.channels)

    @property
    def images(self) -> int:
        """Images per step."""
        return self.trainer.loader.global_batch

    def __call__(self) -> float:
        """Seconds of one whole training step."""
        synchronise(self.device)
        started = time.perf_counter()
        self.trainer.train_step(self.batches)
        synchronise(self.device)
        return time.perf_counter() - started


def benchmark_step(config: Config, *, seconds: float = 20.0, synthetic: bool = False) -> StepBenchmark:
    """Time whole training steps of a configuration.

    Args:
        config: the configuration; its data set is read unless `synthetic`.
        seconds: how long to measure, after a warm-up.
        synthetic: random pictures of the model's size instead of the data set; they pass through the same loader.
    """
    step = TimedStep(config, synthetic=synthetic)
    device, trainer = step.device, step.trainer
    cost = counted_cost(config, trainer.method.channels)
    peak = [matmul_peak(device, step.dtype)]
    for _ in range(3):
        step()
    trainer.reset_interval()
    pace: list[float] = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds or len(pace) < 3:
        pace.append(step())
    waited = trainer.waited / sum(pace)
    peak.append(matmul_peak(device, step.dtype))
    speed = step.images / median(pace)
    achieved = None if cost is None else speed * cost.total
    return StepBenchmark(
        images_per_second=speed,
        flop_per_image=None if cost is None else cost.total,
        flop_share={} if cost is None else cost.parts,
        tokens={} if cost is None else cost.tokens,
        achieved_flops=achieved,
        peak_flops=max(peak),
        peak_share=None if achieved is None else achieved / max(peak),
        data_wait=waited,
        batch=config.data.batch_size,
        accumulation=config.training.accumulation_steps,
        steps=len(pace),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        precision=str(step.dtype).removeprefix("torch."),
        compiled=trainer.parts.compiled,
        data=step.data,
    )


def _trainer(config: Config, device: torch.device, synthetic: bool) -> tuple[Trainer, str]:
    if synthetic:
        size = config.geometry().height_width
        count = max(512, 2 * config.data.batch_size)
        dataset = random_dataset(count, config.data.channels or 3, size, seed=config.seed)
    else:
        dataset = build_dataset(config.data, "train", seed=config.seed)
    # Nothing is written: checkpoints and evaluations are never due within single steps.
    nowhere = Path(tempfile.gettempdir())
    trainer = assemble(config, dataset, device=device, world=World(), folder=RunFolder(nowhere, nowhere), writes=False)
    trainer.method.train()
    return trainer, "random pictures" if synthetic else dataset.name
