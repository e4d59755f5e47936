"""Train a classifier with labels: AdamW, warm-up and cosine, layer-wise learning-rate decay, crops and flips."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.data import Batch, TrainLoader
from hjepa.errors import DivergenceError
from hjepa.evaluation.features import View
from hjepa.evaluation.tuning.classifier import Classifier, layer_of
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.config import DataConfig
    from hjepa.data import ImageDataset

_WARMUP = 0.1
_CLIP = 1.0
_FINAL = 1e-3


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained."""

    steps: int
    """Updates."""
    batch_size: int
    """Images per update."""
    lr: float
    """Largest learning rate, of the head."""
    layer_decay: float = 1.0
    """Factor of the learning rate per block, from the last one towards the input."""
    weight_decay: float = 0.05
    """Decay of matrices."""
    label_smoothing: float = 0.1
    """Share of a label that is spread over all classes."""
    bf16: bool = False
    """Compute forward passes in bfloat16, as a run with `training.use_amp` does."""


def train_classifier(
    model: Classifier,
    train: ImageDataset,
    data: DataConfig,
    view: View,
    recipe: Recipe,
    *,
    seed: int,
    progress: WorkProgress | None = None,
) -> None:
    """Train the parameters of a classifier that have gradients, and leave it in evaluation mode.

    Crops, flips and colours are those of ``data.augmentation``. The state of PyTorch's generator is restored.

    Args:
        model: is changed.
        train: labelled images; all of them are used.
        data: augmentation and loading.
        view: size, normalisation and device of the images.
        recipe: steps, rates, regularisation.
        seed: order, crops and stochastic depth.
        progress: told of every step.

    Raises:
        DivergenceError: the loss became NaN or infinite.
    """
    groups = parameter_groups(model, recipe)
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, recipe.steps))
    trained = [parameter for group in groups for parameter in group["params"]]
    model.train()
    with _seeded(seed, view.device):
        for batch in _batches(train, data, view, recipe, seed):
            assert batch.targets is not None
            assert batch.targets.classes is not None
            with torch.autocast(view.device.type, torch.bfloat16, enabled=recipe.bf16):
                logits = model(batch.images)
            loss = F.cross_entropy(logits.float(), batch.targets.classes, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(trained, _CLIP)
            if not math.isfinite(float(norm)):
                raise DivergenceError(
                    f"training with labels: the gradient is NaN or infinite at lr={recipe.lr:g}; use a lower learning rate"
                )
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress.advance()
    model.eval()


def parameter_groups(model: Classifier, recipe: Recipe) -> list[dict[str, Any]]:
    """Trained parameters by learning rate and decay; norms and biases have no weight decay."""
    depth = model.encoder.geometry.depth
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = name.startswith("encoder.")
        scale = recipe.layer_decay ** (depth - layer_of(name.removeprefix("encoder."), depth)) if inside else 1.0
        groups.setdefault((scale, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": members, "lr": recipe.lr * scale, "weight_decay": recipe.weight_decay if matrix else 0.0}
        for (scale, matrix), members in groups.items()
    ]


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over a tenth of the steps, then half a cosine down to almost 0."""
    warmup = max(1, round(_WARMUP * steps))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    return _FINAL + (1 - _FINAL) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _batches(train: ImageDataset, data: DataConfig, view: View, recipe: Recipe, seed: int) -> Iterator[Batch]:
    size = min(recipe.batch_size, len(train))
    loader = TrainLoader(
        train,
        data.model_copy(update={"batch_size": size}),
        view.image_size,
        mean=view.mean,
        std=view.std,
        seed=seed,
        device=view.device,
        with_targets=True,
    )
    return loader.batches(0, recipe.steps)


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@torch.inference_mode()
def classify(model: Classifier, dataset: ImageDataset, rows: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Predicted classes of images without augmentation, int64 [M], and the rows that could be read, int64 [M]."""
    predicted, read = [], []
    loader = view.batches(dataset, rows)
    for batch in loader:
        predicted.append(model(batch.images).argmax(dim=1).cpu())
        read.append(batch.indices.cpu())
    return torch.cat(predicted), torch.cat(read)
