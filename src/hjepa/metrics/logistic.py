"""Multinomial logistic regression, solved to convergence by preconditioned L-BFGS."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.metrics.moments import gram

_MAX_ITERATIONS = 200
_SUBOPTIMALITY = 1e-5  # largest excess over the minimum in nats per image, estimated by the Newton decrement
log = logging.getLogger("hjepa")


@dataclass(frozen=True)
class LogisticFit:
    """One solution: ``logits = x @ weight.T + bias``."""

    weight: Tensor
    """[C, D] float64."""
    bias: Tensor
    """[C] float64; not regularised."""
    l2: float
    """Strength of the regulariser."""
    objective: float
    """Mean cross-entropy plus ``l2 / 2 * |weight|^2``."""
    iterations: int
    """L-BFGS iterations taken."""


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    l2_values: Sequence[float],
    *,
    num_classes: int,
    start: LogisticFit | None = None,
) -> Iterator[LogisticFit]:
    """Minimise ``mean cross-entropy + l2 / 2 * |weight|^2`` for each strength in turn.

    Each solution starts from the previous one, so order the strengths from strong to weak. Features of deep networks
    are strongly correlated, which makes plain gradient steps slow along weak directions. The variables are therefore
    preconditioned by the Cholesky factor of the Hessian at zero weights; about ten iterations then suffice.

    Args:
        features: [N, D] float32, standardised (mean 0 per column), on any device; products with it run there in
            float32, everything else in float64 on the CPU.
        labels: [N] int64; each of 0 to ``num_classes - 1`` must occur (the bias of a class without images would diverge
            to minus infinity).
        l2_values: strengths, each above 0.
        num_classes: C.
        start: starting point of the first one; zero if None.

    Yields:
        the solutions, in the order of ``l2_values``.

    Raises:
        ValueError: a class without images, or a strength that is not positive.
    """
    counts = torch.bincount(labels.cpu(), minlength=num_classes)
    if len(counts) != num_classes or int(counts.min()) == 0:
        raise ValueError(f"labels: every class of 0 to {num_classes - 1} needs an image; leave empty classes out")
    if any(not l2 > 0 for l2 in l2_values):
        raise ValueError(f"l2_values: {list(l2_values)} must all be above 0")
    count, width = features.shape
    labels = labels.to(features.device)
    second_moment = gram(features, dtype=torch.float32) / count
    # Allows for float32 rounding, so that the factorisation does not fail on directions without variance.
    jitter = 1e-6 * float(second_moment.diagonal().sum())
    weight = torch.zeros(width, num_classes, dtype=torch.float64) if start is None else start.weight.T.clone()
    bias = torch.zeros(num_classes, dtype=torch.float64) if start is None else start.bias.clone()
    for l2 in l2_values:
        # At zero weights the Hessian is (X^T X / N + ...) / C per class, up to a term shared by the classes.
        curvature = second_moment / num_classes
        curvature.diagonal().add_(l2 + jitter / num_classes)
        problem = _Problem(features, labels, l2, torch.linalg.cholesky(curvature), bias_scale=num_classes**0.5)
        weight, bias, objective, iterations = problem.solve(weight, bias)
        yield LogisticFit(weight.T.contiguous(), bias, l2, objective, iterations)


class _Problem:
    """The objective in the coordinates ``factor^T @ weight`` and ``bias / bias_scale``."""

    def __init__(self, features: Tensor, labels: Tensor, l2: float, factor: Tensor, bias_scale: float) -> None:
        self.features, self.labels, self.l2 = features, labels, l2
        self.factor, self.bias_scale = factor, bias_scale

    def solve(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, float, int]:
        """(weight, bias, objective, iterations) from a starting point."""
        position = torch.cat([self.factor.T @ weight, (bias / self.bias_scale)[None]])
        optimiser = torch.optim.LBFGS(
            [position],
            max_iter=_MAX_ITERATIONS,
            # In these coordinates the Hessian is close to the identity, so |gradient|^2 / 2 is about the excess over
            # the minimum. The optimiser compares the largest entry; this one is for an evenly distributed gradient.
            tolerance_grad=math.sqrt(2 * _SUBOPTIMALITY / position.numel()),
            tolerance_change=1e-9,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            objective, position.grad = self.evaluate(position.detach())
            return objective

        optimiser.step(closure)  # type: ignore[no-untyped-call]  # torch does not annotate it
        final = position.detach()
        objective, gradient = self.evaluate(final)
        height = float(gradient.square().sum()) / 2
        iterations = int(optimiser.state[position]["n_iter"])
        if not height < 1e-3:
            log.warning(
                "linear probe: not converged at l2=%g after %d iterations (about %.1e nats above the minimum)",
                self.l2,
                iterations,
                height,
            )
        weight, bias = self.unpack(final)
        return weight, bias, float(objective), iterations

    def unpack(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [D, C] and bias [C] of a point."""
        return torch.linalg.solve_triangular(self.factor.T, position[:-1], upper=True), position[-1] * self.bias_scale

    def evaluate(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Objective and its gradient at a point."""
        weight, bias = self.unpack(position)
        device = self.features.device
        # Layout [classes, images]: with few classes the softmax is then twenty times faster than along short rows, and
        # the second product several times.
        logits = weight.T.float().to(device).contiguous() @ self.features.T + bias.float().to(device)[:, None]
        log_share = F.log_softmax(logits, dim=0)
        images = torch.arange(len(self.labels), device=device)
        loss = -log_share[self.labels, images].mean().cpu().double()
        residual = log_share.exp_()
        residual[self.labels, images] -= 1
        residual /= len(self.labels)
        gradient = (residual @ self.features).cpu().double().T + self.l2 * weight
        objective = loss + self.l2 / 2 * weight.square().sum()
        upper = torch.linalg.solve_triangular(self.factor, gradient, upper=False)
        return objective, torch.cat([upper, (residual.sum(dim=1).cpu().double() * self.bias_scale)[None]])
