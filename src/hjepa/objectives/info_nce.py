"""InfoNCE over cells of several images, with a number of candidates that does not depend on the batch size."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_IGNORED = -100


@dataclass(frozen=True)
class Candidates:
    """Candidates of a prediction: cells of a fixed number of images, at any batch size and number of processes.

    Attributes:
        images: images per prediction, including its own.
        cells: cells per image, including the predicted one; all cells if a level has fewer.
        sets: mask sets per image, rows set by set. Candidates come from one set only, since a cell hidden in two sets
            would be both the target and a negative.
    """

    images: int = 64
    cells: int = 14
    sets: int = 1

    def number(self, cells: int) -> int:
        """Candidates per prediction at a level with ``cells`` predicted cells."""
        return self.images * min(self.cells, cells)


@dataclass(frozen=True)
class Peers:
    """The processes that share a batch.

    Attributes:
        rank: of this process; its images follow those of lower ranks.
        size: number of processes.
        gather: collects rows of all processes by rank, [rows, N, D] -> [size * rows, N, D]; without gradient.
    """

    rank: int
    size: int
    gather: Callable[[Tensor], Tensor]


def info_nce(
    prediction: Tensor,
    target: Tensor,
    temperature: float = 0.1,
    *,
    candidates: Candidates | None = None,
    peers: Peers | None = None,
) -> Tensor:
    """Cross-entropy of picking the right target among those of several images (CPC, arXiv:1807.03748).

    The images of the global batch are divided into blocks of `candidates.images` neighbours, and the cells of a level
    into blocks of `candidates.cells`, interleaved so that each block is spread over the image. A prediction is compared
    with the targets of its block of cells in its block of images. If the numbers do not divide evenly, the last block
    starts earlier and overlaps the one before, so that every prediction has equally many candidates. Processes exchange
    targets only if a block spans two of them.

    Args:
        prediction, target: [K * B, N, D], row ``k * B + b`` is image ``b`` in mask set ``k``; targets get no gradient.
        temperature: of the softmax over cosine similarities.
        candidates: number of candidates and of mask sets.
        peers: the processes that share the batch.

    Returns:
        scalar cross-entropy, averaged over this process's predictions; ``log(candidates.number(N))`` is chance.

    Raises:
        ValueError: the batch has fewer images than `candidates.images`.
    """
    chosen = Candidates() if candidates is None else candidates
    rows, N, D = prediction.shape
    sets, images, cells = chosen.sets, chosen.images, min(chosen.cells, N)
    B = rows // sets
    p, t = F.normalize(prediction, dim=-1), F.normalize(target.detach(), dim=-1)
    first, total = 0, B
    if peers is not None and peers.size > 1 and B % images:
        first, total = peers.rank * B, peers.size * B
        t = peers.gather(t).view(peers.size, sets, B, N, D).transpose(0, 1)
    if total < images:
        raise ValueError(f"candidates: {images} images, but the batch has {total} images; use at most {total}")
    query_rows, candidate_rows, labels = _plan(first, B, total, images, N, cells, sets, p.device)
    p = p.reshape(-1, D).index_select(0, query_rows.flatten()).view(*query_rows.shape, D)
    t = t.reshape(-1, D).index_select(0, candidate_rows.flatten()).view(*candidate_rows.shape, D)
    logits = p @ t.mT / temperature  # [blocks, predictions, candidates]
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED)


def chance_of_info_nce(cells: int, candidates: Candidates | None = None) -> float:
    """The loss of a uniform guess, at a level with ``cells`` predicted cells."""
    return math.log((candidates or Candidates()).number(cells))


def flop_of_info_nce(images: int, cells: int, width: int, candidates: Candidates) -> float:
    """FLOP of the logits, forward, and backward to the predictions.

    Predictions that pad the last block are counted, as they are computed.

    Args:
        images: images in the batch.
        cells: predicted cells of the level.
        width: feature width.
        candidates: number of candidates and of mask sets.
    """
    wide, deep = candidates.images, min(candidates.cells, cells)
    rows = candidates.sets * -(-images // wide) * wide * -(-cells // deep) * deep
    return 2.0 * 2 * rows * wide * deep * width


@functools.lru_cache(maxsize=64)
def _plan(
    first: int, own: int, total: int, images: int, all_cells: int, cells: int, sets: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of predictions and of their candidates; cached, as they are the same in every step.

    Args:
        first, own: position of this process's first image in the batch, and its number of images.
        total: number of images with targets.
        images, cells: images per block of candidates, and cells per image.
        all_cells: predicted cells of an image.

    Returns:
        rows of predictions [blocks, M], rows of targets [blocks, images * cells], and for each prediction the position
        of its target among them [blocks, M]; -100 where a block is padded.
    """
    image, image_exists, image_candidates = _blocks(first, own, total, images, device)  # [I, P], [I, P], [I, images]
    cell, cell_exists, cell_candidates = _blocks(0, all_cells, all_cells, cells, device)  # [C, cells], ...
    classes = -(-all_cells // cells)
    # Neighbouring cells go to different blocks.
    order = torch.cat([torch.arange(c, all_cells, classes, device=device) for c in range(classes)])
    offset = torch.arange(sets, device=device).view(-1, 1, 1, 1, 1)

    def rows(of_images: Tensor, count: int, of_cells: Tensor) -> Tensor:
        """Row numbers in [sets * count * all_cells, D], one block for each set, I and C."""
        number = (offset * count + of_images[:, None, :, None]) * all_cells + order[of_cells][None, :, None, :]
        return number.flatten(3).flatten(0, 2)

    query_rows = rows((image - first).clamp(max=own - 1), own, cell.clamp(max=all_cells - 1))
    candidate_rows = rows(image_candidates, total, cell_candidates)
    column = (image - image_candidates[:, :1])[:, None, :, None] * cells + (cell - cell_candidates[:, :1])[
        None, :, None, :
    ]
    exists = image_exists[:, None, :, None] & cell_exists[None, :, None, :]
    labels = torch.where(exists, column, _IGNORED).flatten(2).flatten(0, 1).repeat(sets, 1)
    return query_rows, candidate_rows, labels


def _blocks(first: int, own: int, total: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Divide ``total`` items into blocks of ``size``, and list the blocks with the ``own`` items from ``first`` on.

    Returns:
        positions of own items by block [blocks, P]; which of them exist, as blocks may be padded [blocks, P]; and the
        positions of the candidates of each block [blocks, size].
    """
    numbers = range(first // size, -(-(first + own) // size))
    most = max(min((n + 1) * size, first + own) - max(n * size, first) for n in numbers)
    begin = size * torch.arange(numbers.start, numbers.stop, device=device).unsqueeze(1)
    position = begin.clamp(min=first) + torch.arange(most, device=device)
    exists = position < (begin + size).clamp(max=first + own)
    candidates = begin.clamp(max=total - size) + torch.arange(size, device=device)
    return position, exists, candidates
