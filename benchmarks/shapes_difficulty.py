"""Measure how hard the data set ``shapes`` is: pixels must say little, a small network must learn the rest.

Three classifiers, all trained on the train split and scored on the test split:

* multinomial logistic regression on standardised pixels, the best of several regularisation strengths;
* cosine nearest neighbours on standardised pixels, k = 20, votes weighted equally;
* a small supervised vision transformer (4-pixel patches, width 128, 6 layers, 4 heads).

Run ``python benchmarks/shapes_difficulty.py`` for the published table (minutes on two cores), ``--short`` to
see in seconds that everything runs (its numbers mean nothing), ``--sheet FILE`` to draw examples.
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from hjepa.data import shapes

# The best is chosen on the test set: the number is an upper bound of what pixels say linearly.
REGULARISATION = (1e-5, 1e-4, 1e-3)


def standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Flat float pixels with mean 0 and deviation 1 per pixel over the training images."""
    train_flat, test_flat = (part.flatten(1).float() / 255.0 for part in (train, test))
    mean, deviation = train_flat.mean(dim=0), train_flat.std(dim=0).clamp(min=1e-6)
    return (train_flat - mean) / deviation, (test_flat - mean) / deviation


def logistic_accuracy(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, *, iterations: int = 100, tolerance: float = 1e-3
) -> tuple[float, float]:
    """Best test accuracy over the regularisation strengths, and the strength ``C`` that gave it."""
    best = (0.0, 0.0)
    for strength in REGULARISATION:
        model = LogisticRegression(C=strength, max_iter=iterations, tol=tolerance)
        model.fit(x.numpy(), y.numpy())
        best = max(best, (float(model.score(x_test.numpy(), y_test.numpy())), strength))
    return best


def neighbour_accuracy(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, k: int = 20) -> float:
    """Test accuracy of the majority among the ``k`` training images of largest cosine similarity."""
    similarity = F.normalize(x_test, dim=1) @ F.normalize(x, dim=1).T
    nearest = y[similarity.topk(min(k, len(x)), dim=1).indices]
    votes = F.one_hot(nearest, len(shapes.CLASSES)).sum(dim=1)
    return float((votes.argmax(dim=1) == y_test).float().mean())


def sincos_positions(grid: int, width: int) -> Tensor:
    """Fixed position code ``[grid * grid, width]``: sines and cosines of row and column, a quarter each."""
    frequency = 10000.0 ** (-torch.arange(width // 4) / (width // 4))
    phase = torch.arange(grid)[:, None] * frequency[None, :]
    line = torch.cat([phase.sin(), phase.cos()], dim=1)
    rows, columns = line[:, None, :].expand(-1, grid, -1), line[None, :, :].expand(grid, -1, -1)
    return torch.cat([rows, columns], dim=2).reshape(grid * grid, width)


class SmallTransformer(nn.Module):
    """Vision transformer with fixed positions and mean pooling."""

    positions: Tensor

    def __init__(self, image_size: int, *, patch: int = 4, width: int = 128, depth: int = 6, heads: int = 4):
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.register_buffer("positions", sincos_positions(image_size // patch, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(shapes.CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits ``[images, classes]``."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(self.norm(tokens).mean(dim=1))
        return logits


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop of 60 to 100 % of the area, resized to the full image; horizontal flips."""
    count = len(images)
    draw = torch.rand(5, count, generator=generator)
    side = (0.6 + 0.4 * draw[0]).sqrt()
    ratio = torch.exp((2.0 * draw[1] - 1.0) * math.log(4.0 / 3.0) * 0.5)
    wide, high = (side * ratio).clamp(max=1.0), (side / ratio).clamp(max=1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = wide * torch.where(draw[4] < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = high
    theta[:, 0, 2] = (2.0 * draw[2] - 1.0) * (1.0 - wide)
    theta[:, 1, 2] = (2.0 * draw[3] - 1.0) * (1.0 - high)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def centre_crop(images: Tensor, area: float = 0.8) -> Tensor:
    """The middle of each image, resized to the full image; 0.8 is the mean area of the training crops."""
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = math.sqrt(area)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def transformer_accuracy(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    epochs: int,
    seed: int,
    bfloat16: bool,
    batch: int = 128,
    rate: float = 1e-3,
) -> dict[str, Any]:
    """Train the transformer with AdamW, warm-up and cosine decay; test accuracy, confusion and seconds."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    # One mean and one deviation per channel, as is usual.
    scaled = train[0].float() / 255.0
    mean, deviation = scaled.mean(dim=(0, 2, 3), keepdim=True), scaled.std(dim=(0, 2, 3), keepdim=True)
    images, labels = (scaled - mean) / deviation, train[1]
    model = SmallTransformer(images.shape[-1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05, betas=(0.9, 0.99))
    batches = max(1, len(images) // batch)
    total = epochs * batches
    warm = max(1, total // 10)
    start = time.perf_counter()
    step = 0
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        losses = []
        for part in order[: batches * batch].chunk(batches):
            decay = 0.5 + 0.5 * math.cos(math.pi * max(0, step - warm) / (total - warm + 1))
            factor = min((step + 1) / warm, decay)
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
                logits = model(augment(images[part], generator))
            loss = F.cross_entropy(logits.float(), labels[part])
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
            step += 1
        seconds = time.perf_counter() - start
        loss_mean = sum(losses) / len(losses)
        print(f"transformer epoch {epoch + 1}/{epochs}: loss {loss_mean:.3f}, {seconds:.0f} s", flush=True)
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        parts = torch.split((test[0].float() / 255.0 - mean) / deviation, 500)
        guesses = torch.cat([model(part).argmax(dim=1) for part in parts])
        centre = torch.cat([model(centre_crop(part)).argmax(dim=1) for part in parts])
    classes = len(shapes.CLASSES)
    confusion = torch.bincount(test[1] * classes + guesses, minlength=classes**2).view(classes, classes)
    return {
        "accuracy": float((guesses == test[1]).float().mean()),
        "accuracy_centre_crop": float((centre == test[1]).float().mean()),
        "seconds": round(seconds, 1),
        "steps": total,
        "confusion": confusion.tolist(),
    }


def draw_sheet(path: Path, size: int, seed: int, examples: int = 12) -> None:
    """Write one labelled row of enlarged training images per class."""
    images, labels = shapes.generate(examples * len(shapes.CLASSES), image_size=size, seed=seed)
    plt.switch_backend("Agg")  # draws into files, with or without a screen
    figure, axes = plt.subplots(len(shapes.CLASSES), 1, figsize=(12.0, 1.02 * len(shapes.CLASSES)))
    for label, (name, axis) in enumerate(zip(shapes.CLASSES, axes, strict=True)):
        framed = F.pad(images[labels == label], (1, 1, 1, 1), value=255)
        axis.imshow(framed.permute(2, 0, 3, 1).flatten(1, 2).numpy(), interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=12)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.subplots_adjust(left=0.09, right=0.995, bottom=0.005, top=0.995, hspace=0.04)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75)
    plt.close(figure)


def main() -> None:
    """Run the measurements that the command line asks for."""
    parser = argparse.ArgumentParser(description="Measure the difficulty of the data set shapes.")
    option = parser.add_argument
    option("--train", type=int, default=8000, help="training images (default 8000)")
    option("--test", type=int, default=2000, help="test images (default 2000)")
    option("--image-size", type=int, default=32, help="side in pixels, a multiple of 4 (default 32)")
    option("--epochs", type=int, default=7, help="epochs of the transformer (default 7)")
    option("--seed", type=int, default=0, help="seed of images and training (default 0)")
    option("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="of the transformer")
    option("--threads", type=int, default=2, help="CPU threads (default 2)")
    option("--only", choices=("pixels", "transformer"), help="measure only one part")
    option("--short", action="store_true", help="tiny run that only shows that everything works")
    option("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    option("--sheet", type=Path, metavar="FILE", help="only draw a sheet of examples as PNG")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.train, arguments.test, arguments.epochs = 256, 100, 1
    torch.set_num_threads(arguments.threads)
    if arguments.sheet is not None:
        draw_sheet(arguments.sheet, arguments.image_size, arguments.seed)
        return

    start = time.perf_counter()
    size, seed = arguments.image_size, arguments.seed
    train = shapes.generate(arguments.train, image_size=size, split="train", seed=seed)
    test = shapes.generate(arguments.test, image_size=size, split="test", seed=seed)
    rows: list[tuple[str, float]] = [("chance", 1.0 / len(shapes.CLASSES))]
    result: dict[str, Any] = {
        "data": "shapes",
        "version": shapes.VERSION,
        "classes": list(shapes.CLASSES),
        "train": arguments.train,
        "test": arguments.test,
        "image_size": size,
        "seed": seed,
        "threads": arguments.threads,
        "precision": arguments.precision,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "generation_s": round(time.perf_counter() - start, 2),
        "short": arguments.short,
    }
    if arguments.only != "transformer":
        x, x_test = standardised(train[0], test[0])
        tolerance = 10.0 if arguments.short else 1e-3
        accuracy, strength = logistic_accuracy(x, train[1], x_test, test[1], tolerance=tolerance)
        result["logistic_c"] = strength
        rows.append(("logistic regression, pixels", accuracy))
        rows.append(("cosine k-NN, pixels, k = 20", neighbour_accuracy(x, train[1], x_test, test[1])))
    if arguments.only != "pixels":
        result["transformer"] = transformer_accuracy(
            train, test, epochs=arguments.epochs, seed=seed, bfloat16=arguments.precision == "bfloat16"
        )
        rows.append(("transformer, whole image", result["transformer"]["accuracy"]))
        rows.append(("transformer, centre crop", result["transformer"]["accuracy_centre_crop"]))
    result["accuracy"] = dict(rows)

    counts = f"{arguments.train} train / {arguments.test} test"
    print(f"\nshapes version {shapes.VERSION}, {size} px, {counts}, seed {seed}")
    for name, accuracy in rows:
        print(f"{name:<30} {100.0 * accuracy:5.1f} %")
    if arguments.only != "pixels":
        print(f"training of the transformer took {result['transformer']['seconds']:.0f} s")
        for name, line in zip(shapes.CLASSES, result["transformer"]["confusion"], strict=True):
            print(f"{name:<10}" + "".join(f"{number:5d}" for number in line))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
