"""How many data workers a device needs: images that a worker decodes per second against images that training consumes.

    python -m benchmarks.data_workers --config configs/cpu_cifar10.yaml --json workers.json
    python -m benchmarks.data_workers --config imagenet1k --device-images-per-second 2500

JPEG files of photographic size are generated and read by the training loader, with and without worker processes. They
are decoded at full size and, with `data.jpeg_reduction`, at the smallest size that the crops allow. The device's speed
is measured with whole training steps on images in memory; `--device-images-per-second` gives it for another machine.
`data wait` is the share of step time spent waiting when the images come from the files. If the same cores decode and
train, workers take cores from the model: the last column is the number of cores that decoding would keep busy.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.report import Rows, configuration, parser, show, write
from hjepa.benchmark.step import TimedStep
from hjepa.config import Config
from hjepa.data import TrainLoader, build_dataset

SIZES = {"500x375": (500, 375), "1600x1200": (1600, 1200)}


def make_files(folder: Path, count: int, size: tuple[int, int], *, seed: int = 0) -> int:
    """Write JPEG files of smooth colours with fine noise, which compress about as much as photographs.

    Returns:
        Total size in bytes.
    """
    random = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        soft = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        grain = random.normal(0, 6, (*soft.shape[:2], 1)).astype(np.float32)
        place = folder / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8)).save(place / f"{number}.jpg", quality=90)
    return sum(file.stat().st_size for file in folder.rglob("*.jpg"))


def from_files(config: Config, folder: Path, workers: int, reduce: bool) -> Config:
    """The configuration with its images read from a folder by workers."""
    keys = {"dataset": "folder", "data_path": folder, "storage": "workers", "num_workers": workers, "subset": None}
    data = config.data.model_copy(update={**keys, "jpeg_reduction": reduce})
    return config.model_copy(update={"data": data})


def decoding(config: Config, batches: int) -> float:
    """Images per second from the loader, cropped to the model's input size."""
    data = config.data
    dataset = build_dataset(data, "train", seed=config.seed)
    loader = TrainLoader(
        dataset,
        data,
        config.geometry().height_width,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        seed=config.seed,
        device=torch.device("cpu"),
    )
    ahead = data.prefetch_factor * data.num_workers
    delivered = loader.batches(0, 1 + ahead + batches)
    # Batches that workers prepared before the timer starts are not counted.
    for _ in range(1 + ahead):
        next(delivered)
    started = time.perf_counter()
    for _ in range(batches):
        next(delivered)
    seconds = time.perf_counter() - started
    _finish(delivered)
    return batches * data.batch_size / seconds


def training(config: Config, steps: int) -> float:
    """Images per second of whole training steps on images in memory."""
    step = TimedStep(config, synthetic=True)
    step()
    return step.images / median(step() for _ in range(steps))


def waiting(config: Config, steps: int) -> float:
    """Share of the time of whole training steps spent waiting for data."""
    step = TimedStep(config)
    step.batches = step.trainer.loader.batches(0, 1 + steps)
    step()
    step.trainer.reset_interval()
    seconds = sum(step() for _ in range(steps))
    _finish(step.batches)
    return step.trainer.waited / seconds


def _finish(batches: Iterator[Any]) -> None:
    """Exhaust the iterator, so that its workers exit at once."""
    assert next(batches, None) is None


def measure(
    config: Config,
    sizes: Sequence[str] = tuple(SIZES),
    *,
    files: int,
    workers: tuple[int, ...],
    batches: int,
    steps: int,
    stated: float | None = None,
) -> dict[str, Any]:
    """Decoding speed for each file size and number of workers, and the number of workers that the device needs.

    Args:
        config: model and batch size.
        sizes: file sizes, keys of `SIZES`.
        files: files generated per size.
        workers: numbers of worker processes.
        batches: batches timed for the decoding speed.
        steps: steps timed for the device's speed and for the share of waiting.
        stated: images per second of a device, instead of measuring this one.
    """
    wanted = training(config, steps) if stated is None else stated
    rows: Rows = []
    for name, reduce in product(sizes, (False, True)):
        with tempfile.TemporaryDirectory() as made:
            kilobytes = make_files(Path(made), files, SIZES[name]) / files / 1e3
            for number in workers:
                fed = from_files(config, Path(made), number, reduce)
                pace = decoding(fed, batches)
                each = pace / max(1, number)
                rows.append(
                    {
                        "files": name,
                        "kB each": kilobytes,
                        "decoded": "as small as will do" if reduce else "whole",
                        "workers": number,
                        "decoded/s": pace,
                        "decoded/s and worker": each,
                        "trained/s": wanted,
                        "workers needed": math.ceil(wanted / each),
                        "data wait": None if stated is not None else waiting(fed, steps),
                        "cores busy decoding": wanted / each,
                    }
                )
    return {"data_workers": rows, "batches": batches, "files": files, "stated": stated}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--config", default="configs/cpu_cifar10.yaml", help="YAML file or preset")
    options.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--files", type=int, default=200, help="files generated per size")
    options.add_argument(
        "--device-images-per-second", type=float, metavar="N", help="speed of a device, instead of measuring this one"
    )
    options.add_argument("overrides", nargs="*", metavar="section.key=value")
    given = options.parse_args(arguments)
    keys: dict[str, Any] = {"training__num_threads": given.threads}
    if given.short:
        keys |= {"data__batch_size": 8, "device": "cpu"}
    config = configuration(given.config, given.overrides, **keys)
    size = config.data.batch_size
    stated = given.device_images_per_second
    result = (
        measure(config, ["500x375"], files=16, workers=(0, 1), batches=1, steps=1, stated=stated)
        if given.short
        else measure(
            config,
            files=max(given.files, 2 * size),
            workers=tuple(given.workers),
            batches=-(-400 // size),
            steps=5,
            stated=stated,
        )
    )
    show(result["data_workers"])
    write(given.json, "data_workers", result, config)


if __name__ == "__main__":
    main()
