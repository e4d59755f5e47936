"""The guard before every update: a loss or gradient that is not finite reaches neither weights nor target."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hjepa.data import Batch
    from hjepa.models import JepaOutput
    from hjepa.objectives import LossTerms

log = logging.getLogger("hjepa")

# A run that skips many updates needs no report of each.
_MOST_REPORTS = 20
_MOST_NAMES = 20


@dataclass
class MicroBatch:
    """What is kept of a forward pass until its update is decided; all on the device, nothing is waited for.

    Attributes:
        indices: images, int64 [B].
        terms: the loss and its parts, detached.
        images, targets, predictions: whether each image [B], each level's targets [L] and predictions [L] are finite.
    """

    indices: Tensor
    terms: LossTerms
    images: Tensor
    targets: Tensor
    predictions: Tensor


def observe(batch: Batch, output: JepaOutput, terms: LossTerms) -> MicroBatch:
    """Note what a report would need."""
    return MicroBatch(
        indices=batch.indices,
        terms=replace(terms, total=terms.total.detach()),
        images=torch.isfinite(batch.images).flatten(1).all(dim=1),
        targets=_finite(output.targets),
        predictions=_finite([p.detach() for p in output.predictions]),
    )


def _finite(levels: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.isfinite(level).all() for level in levels])


def poison(losses: Sequence[Tensor]) -> Tensor:
    """1 if every loss is finite, else NaN: a factor for the loss of a step's last micro-batch, exact when it is 1.

    A loss can be infinite while its gradient is finite. Multiplied by NaN, the gradient says so too; and since
    gradients are averaged over processes, every process sees it and decides alike, without another exchange.
    """
    total = torch.stack(list(losses)).sum()
    return torch.where(torch.isfinite(total), 1.0, float("nan")).to(total.dtype)


class TroubleReports:
    """Writes what is known of an update that was not made to ``non_finite/`` in the run folder.

    Args:
        folder: the run folder.
        identifiers: names of the images by index.
        rank: this process; each writes its own file.
    """

    def __init__(self, folder: Path, identifiers: Sequence[str], rank: int) -> None:
        self._folder = folder / "non_finite"
        self._identifiers = identifiers
        self._rank = rank
        self._written = 0

    def write(
        self,
        step: int,
        micro_batches: Sequence[MicroBatch],
        broken: Iterable[str],
        **facts: Any,
    ) -> str:
        """Write a report.

        Args:
            step: optimiser step.
            micro_batches: of this step, on this process.
            broken: names of the parameters whose gradients are not finite; read only if they are what is wrong.
            facts: plain values to add.

        Returns:
            what was found, in a few words, and the file.
        """
        stage, levels = _stage(micro_batches)
        found = f"not finite: {stage}" + (f" of level {', '.join(map(str, levels))}" if levels else "")
        if self._written >= _MOST_REPORTS or (stage == "gradient" and self._rank):
            return found
        self._written += 1
        report: dict[str, Any] = {"step": step, "rank": self._rank, "stage": stage, "levels": levels}
        report |= {name: _plain(value) for name, value in facts.items()}
        report["micro_batches"] = [self._describe(micro) for micro in micro_batches]
        if stage == "gradient":
            report["parameters"] = list(itertools.islice(broken, _MOST_NAMES))
        file = self._folder / f"step_{step:08d}_rank{self._rank}.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(report, indent=1, allow_nan=False), encoding="utf-8")
        except OSError as error:
            log.warning("%s: cannot be written (%s)", file, error.strerror)
            return found
        return f"{found}; images and values are in {file}"

    def _describe(self, micro: MicroBatch) -> dict[str, Any]:
        rows = zip(micro.indices.tolist(), micro.images.tolist(), strict=True)
        return {
            "loss": _plain(micro.terms.total.item()),
            "levels": [_plain(value) for value in micro.terms.levels.tolist()],
            "regularisers": {name: _plain(value.item()) for name, value in micro.terms.regularisers.items()},
            "images": [{"index": i, "file": self._identifiers[i], "finite": finite} for i, finite in rows],
        }


def _stage(micro_batches: Sequence[MicroBatch]) -> tuple[str, list[int]]:
    """The first stage that is not finite, and its levels."""
    if not all(bool(micro.images.all()) for micro in micro_batches):
        return "image", []
    for name in ("targets", "predictions"):
        fine = torch.stack([getattr(micro, name) for micro in micro_batches]).all(dim=0)
        if not bool(fine.all()):
            return name.removesuffix("s"), [level for level, good in enumerate(fine.tolist()) if not good]
    if not bool(torch.isfinite(torch.stack([micro.terms.total for micro in micro_batches])).all()):
        levels = torch.isfinite(torch.stack([micro.terms.levels for micro in micro_batches])).all(dim=0)
        return "loss", [level for level, good in enumerate(levels.tolist()) if not good]
    return "gradient", []


def _plain(value: Any) -> Any:
    """JSON has no word for infinity and NaN."""
    return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)
