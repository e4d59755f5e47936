"""How long the linear probe and k-NN take on cached features, and how fast features are extracted.

    python -m benchmarks.evaluation_speed --json evaluation.json

The features are synthetic: overlapping classes with the decaying spectrum and the offsets of trained features, so that
the solver is equally ill-conditioned. 50,000 of the 60,000 are used for training, with five L2 strengths and k = 20.
Creating the first optimiser of a process makes PyTorch import its compiler. That import has its own row, because a
process that has trained already contains it.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import Rows, configuration, parser, show, write
from hjepa.config import Config
from hjepa.data import random_dataset
from hjepa.evaluation.features import View, encode, encoder_reader
from hjepa.methods.jepa import build_sampler
from hjepa.metrics import accuracy, knn_predict, linear_probe
from hjepa.models import build_model
from hjepa.models.cost import step_cost
from hjepa.runtime.peak import matmul_peak

L2_VALUES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
K = 20


def drawn_features(count: int, width: int, classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Synthetic features [count, width] float32 and labels [count]; a linear classifier gets about two thirds right."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    rank = width // 2
    centres = 0.45 * torch.randn(classes, rank, generator=generator)
    latent = centres[labels] + torch.randn(count, rank, generator=generator)
    # A nonlinearity, since features of a network are not a mixture of Gaussians, and a spectrum over three decades.
    latent = torch.cat(
        [latent, latent.relu() @ torch.randn(rank, width - rank, generator=generator) / rank**0.5], dim=1
    )
    mixing = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    return (latent * torch.logspace(0, -3, width)) @ mixing + torch.randn(width, generator=generator), labels


def evaluation(count: int, width: int, classes: int) -> Rows:
    """Seconds of probe and k-NN on the same synthetic features."""
    features, labels = drawn_features(count, width, classes)
    cut = count * 5 // 6
    train, test = features[:cut], features[cut:]
    begun = time.perf_counter()
    torch.optim.LBFGS([torch.zeros(1)])
    started = time.perf_counter()
    probe = linear_probe(
        train, labels[:cut], test, labels[cut:], num_classes=classes, l2_values=L2_VALUES, validation_fraction=0.1
    )
    probed = time.perf_counter()
    predicted = knn_predict(train, labels[:cut], test, k=K)[K]
    ended = time.perf_counter()
    size = f"{count} x {width}"
    return [
        {"part": "first optimiser of the process", "size": "-", "s": started - begun, "accuracy": None},
        {"part": "linear probe", "size": size, "s": probed - started, "accuracy": probe.accuracy},
        {"part": f"k-NN-{K}", "size": size, "s": ended - probed, "accuracy": accuracy(predicted, labels[cut:])},
        {"part": "all", "size": size, "s": ended - begun, "accuracy": None},
    ]


def reading(config: Config, count: int, side: int | None) -> dict[str, Any]:
    """Images per second of feature extraction, and its share of the matrix-product peak measured in the same run."""
    device = torch.device("cpu")
    geometry = config.geometry()
    images = random_dataset(count, 3, geometry.height_width)
    view = View(geometry.height_width, (0.5,) * 3, (0.25,) * 3, device)
    encoder = build_model(config).eval().target_encoder
    peak = [matmul_peak(device, torch.float32, side=side)]
    encode(images, torch.arange(min(count, 64)), [encoder_reader(encoder, "model")], view)
    started = time.perf_counter()
    encode(images, None, [encoder_reader(encoder, "model")], view)
    seconds = time.perf_counter() - started
    peak.append(matmul_peak(device, torch.float32, side=side))
    masks = build_sampler(config)
    cost = step_cost(config.model, geometry, 3, masks.counts.context, masks.counts.targets, masks.groups)
    return {
        "images": count,
        "seconds": seconds,
        "images_per_second": count / seconds,
        "flop_per_image": cost.target,
        "peak_flops": max(peak),
        "peak_share": count / seconds * cost.target / max(peak),
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--config", default="quickstart", help="YAML file or preset that defines the encoder")
    options.add_argument("--features", type=int, default=60_000)
    options.add_argument("--width", type=int, default=192)
    options.add_argument("--images", type=int, default=2048, help="images encoded")
    given = options.parse_args(arguments)
    config = configuration(given.config, device="cpu")
    if given.threads:
        torch.set_num_threads(given.threads)
    count, width, images, side = given.features, given.width, given.images, None
    if given.short:
        count, width, images, side = 600, 24, 64, 256
    rows = evaluation(count, width, classes=10)
    read = reading(config, images, side)
    show(rows)
    print(
        f"reading features: {read['images_per_second']:.0f} images/s, {read['peak_share']:.1%} of "
        f"{read['peak_flops'] / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads"
    )
    write(given.json, "evaluation_speed", {"evaluation": rows, "reading": read}, config)


if __name__ == "__main__":
    main()
