"""The attentive probe: a classifier on frozen tokens that learns where to look.

The efficient form of arXiv:2506.10178: learned queries attend directly to the tokens, without a projection of the keys,
and each query reads its own slice of one value projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
    """Learned queries that pool the tokens of one level.

    Queries start at zero and the value projection at the identity, so that pooling starts as the mean over tokens.

    Args:
        width: D of the tokens.
        queries: M, divides D.
    """

    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(queries, width))
        self.value = nn.Parameter(torch.eye(width).view(queries, width // queries, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool tokens [B, N, D] to [B, D]: M slices of width D / M side by side."""
        scores = tokens @ self.query.T / tokens.shape[-1] ** 0.5
        pooled = scores.softmax(dim=1).transpose(1, 2) @ tokens  # [B, M, D]
        return torch.einsum("bmd,msd->bms", pooled, self.value).flatten(1)

    def attention(self, tokens: Tensor) -> Tensor:
        """Weight of every token for every query, [B, M, N]; sums to 1 over tokens."""
        return (tokens @ self.query.T / tokens.shape[-1] ** 0.5).softmax(dim=1).transpose(1, 2)


class AttentiveProbe(nn.Module):
    """Standardised tokens of one or several levels, pooled by attention each, and a linear classifier on all of them.

    Args:
        mean: per level [D], subtracted from the tokens.
        std: per level [D]; 0 for a constant dimension, which is ignored.
        num_classes: C.
        queries: queries per level, reduced to a number that divides the width.
    """

    def __init__(self, mean: Sequence[Tensor], std: Sequence[Tensor], num_classes: int, queries: int = QUERIES) -> None:
        super().__init__()
        for number, (m, s) in enumerate(zip(mean, std, strict=True)):
            self.register_buffer(f"mean_{number}", m.float())
            self.register_buffer(f"scale_{number}", torch.where(s > 1e-6 * m.abs(), 1 / s, 0.0).float())
        widths = [len(m) for m in mean]
        self.pooling = nn.ModuleList(AttentivePooling(w, _dividing(w, queries)) for w in widths)
        self.head = nn.Linear(sum(widths), num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits [B, C] of tokens [B, N, D] per level; the levels may differ in N."""
        pooled = []
        for number, (pool, tokens) in enumerate(zip(self.pooling, levels, strict=True)):
            mean, scale = self.get_buffer(f"mean_{number}"), self.get_buffer(f"scale_{number}")
            pooled.append(pool((tokens.float() - mean) * scale))
        return self.head(torch.cat(pooled, dim=1))


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
    blocks = zip(*(tokens.split(BATCH) for tokens in levels), strict=True)
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
            loss = torch.stack([F.cross_entropy(probe(tokens), target) for probe in probes]).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
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
    for block in tokens.split(BATCH):
        flat = block.cpu().reshape(-1, width).double()
        total += torch.stack([flat.sum(dim=0), flat.square().sum(dim=0)])
    mean, square = total / (tokens.shape[0] * tokens.shape[1])
    return mean, (square - mean.square()).clamp_min(0).sqrt()


def _dividing(width: int, queries: int) -> int:
    """The largest number of queries, at most ``queries``, that divides the width."""
    return next(n for n in range(min(queries, width), 0, -1) if width % n == 0)
