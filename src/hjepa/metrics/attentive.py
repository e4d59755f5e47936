"""The attentive probe: a classifier on frozen tokens that learns where to look.

The efficient form of arXiv:2506.10178: learned queries attend directly to the tokens, without a projection of the keys,
and each query reads its own slice of one value projection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.metrics.knn import accuracy
from hjepa.metrics.linear_probe import stratified_split
from hjepa.runtime.random import Purpose, stream

WEIGHT_DECAYS = (0.01, 0.1, 1.0)
"""Weight decays of AdamW to choose from."""
QUERIES = 8
EPOCHS = 8
FEWEST_STEPS = 150
"""Small data sets are passed over more often."""
LEARNING_RATE = 2e-2
BATCH = 256
_WARMUP = 0.1  # share of the steps


class AttentivePooling(nn.Module):
    """Learned queries that pool the standardised tokens of one level.

    Queries start at zero and the value projection at the identity, so that pooling starts as the mean over tokens.

    Args:
        mean: [D] float, subtracted from the tokens.
        std: [D] float, by which they are divided; a constant dimension is ignored.
        queries: M, reduced to a number that divides D.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, std: Tensor, queries: int) -> None:
        super().__init__()
        width = len(mean)
        count = next(n for n in range(min(queries, width), 0, -1) if width % n == 0)
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", torch.where(std > 1e-6 * mean.abs(), 1 / std, 0.0).float())
        self.query = nn.Parameter(torch.zeros(count, width))
        self.value = nn.Parameter(torch.eye(width).view(count, width // count, width))

    def attention(self, tokens: Tensor) -> Tensor:
        """Weight of every token of [B, N, D] for every query, [B, M, N]; sums to 1 over tokens."""
        return attention(self.query * self.scale, tokens)

    def read(self, pooled: Tensor) -> Tensor:
        """From tokens averaged by each query [B, M, D] to features [B, D]: M slices of width D / M side by side."""
        return torch.einsum("bmd,msd->bms", (pooled - self.mean) * self.scale, self.value).flatten(1)


def attention(queries: Tensor, tokens: Tensor) -> Tensor:
    """Softmax over tokens [B, N, D] of their products with queries [M, D]: [B, M, N].

    The mean of the tokens may stay in them, since it adds the same to all products of a query.
    """
    return (tokens @ (queries.T / math.sqrt(tokens.shape[-1]))).softmax(dim=1).transpose(1, 2)


class AttentiveProbe(nn.Module):
    """Pools the tokens of one or several levels by attention each, and classifies the result linearly.

    Args:
        mean, std: per level [D], of the training tokens.
        num_classes: C.
        queries: queries per level.
    """

    def __init__(self, mean: Sequence[Tensor], std: Sequence[Tensor], num_classes: int, queries: int = QUERIES) -> None:
        super().__init__()
        self.pooling = nn.ModuleList(AttentivePooling(m, s, queries) for m, s in zip(mean, std, strict=True))
        self.head = nn.Linear(sum(len(m) for m in mean), num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits [B, C] of tokens [B, N, D] per level; the levels may differ in N."""
        return _logits([self], levels)[0]


def _logits(probes: Sequence[AttentiveProbe], levels: Sequence[Tensor]) -> list[Tensor]:
    """Logits [B, C] of several probes, whose queries read the tokens in one product."""
    features: list[list[Tensor]] = [[] for _ in probes]
    for number, tokens in enumerate(levels):
        values = tokens.float()
        pools = [cast(AttentivePooling, probe.pooling[number]) for probe in probes]
        weight = attention(torch.cat([pool.query * pool.scale for pool in pools]), values)
        pooled = torch.split(weight @ values, [len(pool.query) for pool in pools], dim=1)
        for own, pool, part in zip(features, pools, pooled, strict=True):
            own.append(pool.read(part))
    return [probe.head(torch.cat(own, dim=1)) for probe, own in zip(probes, features, strict=True)]


@dataclass(frozen=True)
class AttentiveResult:
    """A trained attentive probe and how its weight decay was chosen."""

    probe: AttentiveProbe
    """Trained on all training images, in evaluation mode."""
    weight_decay: float
    """The chosen one."""
    validation: dict[float, float]
    """Accuracy on the held-out training images for every weight decay tried."""


def attentive_probe(
    levels: Sequence[Tensor],
    labels: Tensor,
    *,
    num_classes: int,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    epochs: int = EPOCHS,
    seed: int = 0,
    device: torch.device | None = None,
) -> AttentiveResult:
    """Train an attentive probe on tokens, with AdamW and a cosine schedule.

    The weight decay is chosen on a stratified tenth of the training images, and the probe is then trained again on all
    of them. Among equally accurate ones the largest is chosen.

    Args:
        levels: tokens [N, cells, D] per level, of any floating-point type; the same images in the same order.
        labels: [N] int64.
        num_classes: C.
        weight_decays: to choose from; with a single one nothing is held out.
        epochs: passes over the images; more if they make fewer than `FEWEST_STEPS` steps.
        seed: of the split and of the order of the images.
        device: where to train; that of the tokens when not given.

    Raises:
        ValueError: no class with two images, or numbers of images that differ.
    """
    if any(len(tokens) != len(labels) for tokens in levels):
        raise ValueError(f"levels: {[len(tokens) for tokens in levels]} images for {len(labels)} labels")
    place = levels[0].device if device is None else device
    mean, std = zip(*(_moments(tokens) for tokens in levels), strict=True)
    candidates = sorted(set(weight_decays), reverse=True)
    validation: dict[float, float] = {}
    if len(candidates) > 1:
        kept, held_out = stratified_split(labels, 0.1, seed)
        if len(held_out) == 0:
            raise ValueError("labels: no class has two images, so none can be held out to choose the weight decay")
        probes = [AttentiveProbe(mean, std, num_classes).to(place) for _ in candidates]
        _train(probes, candidates, levels, labels, kept, epochs, seed, place)
        held = [tokens[held_out] for tokens in levels]
        for decay, probe in zip(candidates, probes, strict=True):
            validation[decay] = accuracy(predict(probe, held, place).argmax(dim=1), labels[held_out])
    best = max(candidates, key=lambda decay: validation.get(decay, 0.0))
    final = AttentiveProbe(mean, std, num_classes).to(place)
    _train([final], [best], levels, labels, torch.arange(len(labels)), epochs, seed, place)
    return AttentiveResult(final, best, validation)


@torch.inference_mode()
def predict(probe: AttentiveProbe, levels: Sequence[Tensor], device: torch.device) -> Tensor:
    """Logits [N, C] on the host of tokens [N, cells, D] per level."""
    blocks = zip(*(torch.split(tokens, BATCH) for tokens in levels), strict=True)
    return torch.cat([probe([block.to(device) for block in part]).cpu() for part in blocks])


def _train(
    probes: Sequence[AttentiveProbe],
    decays: Sequence[float],
    levels: Sequence[Tensor],
    labels: Tensor,
    rows: Tensor,
    epochs: int,
    seed: int,
    device: torch.device,
) -> None:
    """Train several probes on the same batches, each with its own weight decay."""
    groups = [
        {"params": [p for p in probe.parameters() if p.ndim > 1], "weight_decay": decay}
        for probe, decay in zip(probes, decays, strict=True)
    ]
    rest = {"params": [p for probe in probes for p in probe.parameters() if p.ndim == 1], "weight_decay": 0.0}
    optimiser = torch.optim.AdamW([*groups, rest], lr=LEARNING_RATE)
    batches = max(1, round(len(rows) / BATCH))
    epochs = max(epochs, -(-FEWEST_STEPS // batches))
    total = epochs * batches
    step = 0
    for epoch in range(epochs):
        order = rows[torch.from_numpy(stream(Purpose.ATTENTIVE, seed, epoch).permutation(len(rows)))]
        edges = np.linspace(0, len(rows), batches + 1).astype(int)
        for start, end in pairwise(edges.tolist()):
            batch = order[start:end]
            rate = LEARNING_RATE * _schedule(step, total)
            for group in optimiser.param_groups:
                group["lr"] = rate
            tokens = [level[batch].to(device) for level in levels]
            target = labels[batch].to(device)
            loss = torch.stack([F.cross_entropy(logits, target) for logits in _logits(probes, tokens)]).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            optimiser.step()
            step += 1
    for probe in probes:
        probe.eval()


def _schedule(step: int, total: int) -> float:
    """Share of the learning rate: linear warm-up, then cosine to 0."""
    warmup = max(1, round(_WARMUP * total))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, total - warmup))))


def _moments(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per dimension over images and cells, [D] each on the host."""
    width = tokens.shape[-1]
    total = torch.zeros(2, width, dtype=torch.float64)
    for block in torch.split(tokens, BATCH):
        flat = block.cpu().reshape(-1, width).double()
        total += torch.stack([flat.sum(dim=0), flat.square().sum(dim=0)])
    mean, square = total / (tokens.shape[0] * tokens.shape[1])
    return mean, (square - mean.square()).clamp_min(0).sqrt()
