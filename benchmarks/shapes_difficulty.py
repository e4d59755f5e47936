"""How difficult the data set ``shapes`` is for raw pixels and for a supervised encoder.

Classifiers on raw pixels should do poorly, and the encoder trained with labels should do well. Three classifiers are
fitted on the training split and scored once on the test split: the linear probe and k-NN of the evaluation protocol on
raw pixels, and the encoder of the preset ``quickstart`` with a linear head. The encoder is trained with labels on as
many images as the preset, with its optimiser and schedule.

    python benchmarks/shapes_difficulty.py --json docs/results/shapes_difficulty.json

``--short`` checks in seconds that everything runs; do not use its numbers. ``--sheet FILE`` draws examples.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hjepa.config import Config, load_config
from hjepa.data import ImageDataset, TrainLoader, build_dataset, eval_batches, measure_statistics, shapes
from hjepa.metrics import accuracy, knn_predict, linear_probe
from hjepa.models import build_model
from hjepa.runtime.environment import environment
from hjepa.runtime.files import write_atomically
from hjepa.training.optim.schedules import Schedules

K = 20


def pixels(dataset: ImageDataset, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """Flattened normalised images [N, C * H * W]."""
    batches = eval_batches(
        dataset,
        None,
        (32, 32),
        mean=statistics[0],
        std=statistics[1],
        batch_size=500,
        num_workers=0,
        device=torch.device("cpu"),
    )
    return torch.cat([batch.images.flatten(1) for batch in batches])


def supervised(config: Config, train: ImageDataset, test: ImageDataset) -> tuple[float, int, float]:
    """Train the encoder with labels. Returns test accuracy, steps and seconds of training."""
    statistics = measure_statistics(train, config.seed)
    device = torch.device("cpu")
    model = build_model(config, train.channels)
    encoder, head = model.context_encoder, nn.Linear(model.embed_dim, len(shapes.CLASSES))
    loader = TrainLoader(
        train,
        config.data,
        model.geometry.height_width,
        mean=statistics[0],
        std=statistics[1],
        seed=config.seed,
        device=device,
    )
    schedules = Schedules(config, loader.steps_per_epoch, loader.global_batch)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=config.training.weight_decay, fused=True)

    def logits(images: Tensor) -> Tensor:
        predicted: Tensor = head(encoder(images)[model.geometry.depth].mean(dim=1))
        return predicted

    started = time.perf_counter()
    assert train.labels is not None
    for step, batch in enumerate(loader.batches(0, schedules.total_steps)):
        for group in optimizer.param_groups:
            group["lr"] = schedules.lr(step)
        F.cross_entropy(logits(batch.images), train.labels[batch.indices]).backward()
        nn.utils.clip_grad_norm_(parameters, config.training.clip_grad or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - started
    assert test.labels is not None
    with torch.inference_mode():
        batches = eval_batches(
            test, None, (32, 32), mean=statistics[0], std=statistics[1], batch_size=500, num_workers=0, device=device
        )
        predicted = torch.cat([logits(batch.images).argmax(dim=1) for batch in batches])
    return accuracy(predicted, test.labels), schedules.total_steps, seconds


def measure(config: Config) -> dict[str, Any]:
    """Accuracies of all three classifiers, with the conditions."""
    train = build_dataset(config.data.model_copy(update={"subset": None}), "train", seed=config.seed)
    test = build_dataset(config.data, "test", seed=config.seed)
    assert train.labels is not None
    assert test.labels is not None
    if config.data.subset is not None and config.data.subset < 1000:  # --short
        train, test = train.select(torch.arange(400)), test.select(torch.arange(200))
    statistics = measure_statistics(train, config.seed)
    x, x_test = pixels(train, statistics), pixels(test, statistics)
    assert train.labels is not None
    assert test.labels is not None
    classes = len(shapes.CLASSES)
    linear = linear_probe(x, train.labels, x_test, test.labels, num_classes=classes, seed=config.seed).accuracy
    nearest = accuracy(knn_predict(x, train.labels, x_test, k=K)[K], test.labels)
    trained, steps, seconds = supervised(config, build_dataset(config.data, "train", seed=config.seed), test)
    return {
        "shapes_version": shapes.VERSION,
        "classes": classes,
        "chance": 1 / classes,
        "train_images": len(train),
        "test_images": len(test),
        "pixels_linear": linear,
        f"pixels_knn_{K}": nearest,
        "supervised": trained,
        "supervised_steps": steps,
        "supervised_images": steps * config.data.batch_size,
        "supervised_seconds": seconds,
        "environment": environment(config, torch.device("cpu"), 1),
        "config": config.model_dump(mode="json"),
    }


def draw_sheet(path: Path, columns: int = 12, zoom: int = 2) -> None:
    """One labelled row of enlarged training images per class."""
    from matplotlib.figure import Figure

    images, labels = shapes.generate(columns * len(shapes.CLASSES) * 2)
    figure = Figure(figsize=(columns * 0.8, len(shapes.CLASSES) * 0.82), dpi=96)
    axes = figure.subplots(len(shapes.CLASSES), 1)
    for label, (axis, name) in enumerate(zip(axes, shapes.CLASSES, strict=True)):
        row = images[labels == label][:columns]
        strip = F.pad(row, (1, 1, 1, 1), value=255).permute(2, 0, 3, 1).reshape(row.shape[2] + 2, -1, 3)
        axis.imshow(strip.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1).numpy(), interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, bbox_inches="tight")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--sheet", type=Path, help="only draw examples, to this PNG file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="a few images, to check that everything runs")
    arguments = parser.parse_args()
    if arguments.sheet:
        draw_sheet(arguments.sheet)
        return
    keys: dict[str, Any] = {"seed": arguments.seed, "data.augmentation.crop_scale": [0.6, 1.0], "device": "cpu"}
    if arguments.short:
        keys |= {"data.subset": 256, "training.epochs": 1, "training.warmup_epochs": 0.1}
    result = measure(load_config("quickstart", keys))
    print(f"{'chance':<28}{result['chance']:.1%}")
    print(f"{'raw pixels, linear probe':<28}{result['pixels_linear']:.1%}")
    print(f"{f'raw pixels, k-NN-{K}':<28}{result[f'pixels_knn_{K}']:.1%}")
    print(
        f"{'supervised encoder':<28}{result['supervised']:.1%}  ({result['supervised_images']} images, {result['supervised_seconds']:.0f} s)"
    )
    if arguments.json:
        write_atomically(arguments.json, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
