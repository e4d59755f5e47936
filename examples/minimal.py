"""H-JEPA on one page: train three levels on the built-in shapes data set and evaluate them with a linear probe.

    python examples/minimal.py                # about two minutes on two CPU cores
    python examples/minimal.py --steps 20     # a quick try

`hjepa train` adds resuming, checks for non-finite values, schedules, mixed precision, several processes and reports.
"""

from __future__ import annotations

import argparse
import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.config import DataConfig, MaskingConfig, ModelConfig, PredictorConfig, resolve
from hjepa.data import TrainLoader, build_dataset, eval_batches
from hjepa.masking import MaskSampler
from hjepa.metrics import linear_probe, rankme
from hjepa.models import Predictor, VisionTransformer
from hjepa.models.encoder import gather_tokens
from hjepa.objectives import covariance_loss, variance_loss

SIZE, BATCH, WIDTH = (32, 32), 64, 96
MEAN = STD = (0.5, 0.5, 0.5)
DEVICE = torch.device("cpu")


class MinimalHJEPA(nn.Module):
    """Context encoder, predictor and target encoder; every level is an encoder depth, on the full token grid."""

    def __init__(self) -> None:
        super().__init__()
        config = ModelConfig(
            encoder_type="vit_tiny_patch4_32",
            embed_dim=WIDTH,
            depth=4,
            num_heads=3,
            num_hierarchies=3,
            predictor=PredictorConfig(depth=2, embed_dim=WIDTH, num_heads=3),
        )
        self.geometry = resolve(config)
        levels = range(len(self.geometry.levels))
        self.context_encoder = VisionTransformer(config, self.geometry, channels=3)
        self.predictor = Predictor(config.predictor, self.geometry, levels, inputs=len(self.context_encoder.depths))
        # An exact copy; afterwards only the moving average changes it.
        self.target_encoder = copy.deepcopy(self.context_encoder).requires_grad_(False)

    def loss(self, images: Tensor, masks: MaskSampler, step: int) -> Tensor:
        """Predict the target encoder's features of the hidden cells at every level.

        Args:
            images: [B, 3, 32, 32], normalised.
            masks: draws the visible tokens and the hidden cells.
            step: optimiser step; masks are a function of seed, step and position.
        """
        drawn = masks(step, len(images))
        with torch.no_grad():
            whole = self.target_encoder.levels(images)  # per level [B, 64, D]
            targets = [F.layer_norm(gather_tokens(f, i), (WIDTH,)) for f, i in zip(whole, drawn.targets, strict=True)]
        taps = self.context_encoder(
            images, drawn.context
        )  # depth -> [B, visible tokens, D]; hidden ones are never computed
        seen = torch.cat([taps[depth] for depth in self.context_encoder.depths], dim=-1)
        groups = [(levels, drawn.targets[levels[0]]) for levels in drawn.groups]
        predictions = self.predictor(seen, drawn.context, groups)
        total = torch.stack([F.smooth_l1_loss(predictions[i], target) for i, target in enumerate(targets)]).sum()
        # Against collapse: variance and covariance of pooled features (VICReg).
        pooled = taps[self.context_encoder.depths[-1]].mean(dim=1)
        return total + 0.15 * (variance_loss(pooled) + covariance_loss(pooled))

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """One step of the target encoder's exponential moving average."""
        for target, context in zip(self.target_encoder.parameters(), self.context_encoder.parameters(), strict=True):
            target.lerp_(context, 1 - momentum)


def train(steps: int, images: int | None = None, seed: int = 0) -> MinimalHJEPA:
    """Train on the built-in shapes data set.

    Args:
        steps: optimiser steps of 64 images.
        images: number of training images; None uses all.
        seed: seed of weights, order, crops and masks.
    """
    torch.manual_seed(seed)
    data = DataConfig(dataset="shapes", batch_size=BATCH, subset=images)
    loader = TrainLoader(build_dataset(data, "train"), data, SIZE, mean=MEAN, std=STD, seed=seed, device=DEVICE)
    model = MinimalHJEPA()
    masks = MaskSampler(
        MaskingConfig(), model.geometry.grid, [level.stride for level in model.geometry.levels], seed=seed
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.05)
    for step, batch in enumerate(loader.batches(0, steps)):
        warmup = min(1.0, (step + 1) / (0.1 * steps))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * warmup * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = model.loss(batch.images, masks, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.follow(0.99 + 0.009 * step / steps)
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.3f}")
    return model


@torch.no_grad()
def read(model: MinimalHJEPA, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Features of all levels of the target encoder, pooled and concatenated, [N, levels * D], and labels [N]."""
    dataset = build_dataset(DataConfig(dataset="shapes"), "test" if split == "test" else "train")
    rows = torch.arange(min(count, len(dataset)))
    batches = eval_batches(dataset, rows, SIZE, mean=MEAN, std=STD, batch_size=256, device=DEVICE)
    features = torch.cat([model.target_encoder.extract_features(batch.images) for batch in batches])
    assert dataset.labels is not None
    return features, dataset.labels[rows]


def score(model: MinimalHJEPA, references: int = 6000, queries: int = 2000) -> tuple[float, float]:
    """Accuracy of a linear probe on held-out images, and effective rank of their features."""
    (known, labels), (asked, truth) = read(model, "train", references), read(model, "test", queries)
    probe = linear_probe(known, labels, asked, truth, num_classes=int(labels.max()) + 1)
    return probe.accuracy, rankme(asked)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args().steps
    if steps < 1:
        parser.exit(2, f"minimal.py: --steps: {steps} trains nothing; give 1 or more\n")
    torch.manual_seed(0)
    print("untrained: linear probe {:.1%}, effective rank {:.0f}".format(*score(MinimalHJEPA())))
    print("trained:   linear probe {:.1%}, effective rank {:.0f}".format(*score(train(steps))))
