"""InfoNCE over cells of several images, with the candidates chosen by design and not by the size of a batch."""

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
    """With what a prediction is compared: cells of a fixed number of images, at any batch size and number of processes.

    Attributes:
        images: images per prediction, its own among them.
        cells: cells of each of them, its own among those of its own image; all cells where a level has fewer.
        sets: mask sets per image, rows set by set. Candidates are drawn within one set, as a cell that is hidden in two
            would be the target and a wrong answer at once.
    """

    images: int = 64
    cells: int = 14
    sets: int = 1

    def number(self, cells: int) -> int:
        """Candidates per prediction at a level of that many predicted cells."""
        return self.images * min(self.cells, cells)


@dataclass(frozen=True)
class Peers:
    """The processes that share a batch.

    Attributes:
        rank: this process; its images follow those of the processes before it.
        size: their number.
        gather: rows of all processes, in order, [rows, N, D] -> [size * rows, N, D]; without gradient.
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
    """Pick the right target among the targets of several images (CPC, arXiv:1807.03748).

    The images of a batch, all processes together, are cut into blocks of `candidates.images` neighbours, and the cells
    of a level, interleaved so that each block is spread over the image, into blocks of `candidates.cells`. A prediction
    is compared with the targets of its block of cells in its block of images. What does not divide evenly is taken care
    of by the last block, which begins earlier: every prediction has equally many candidates. Processes exchange targets
    only where a block reaches from one into the next.

    Args:
        prediction, target: [K * B, N, D], row ``k * B + b`` of image ``b`` in mask set ``k``; no gradient reaches targets.
        temperature: of the softmax over cosine similarities.
        candidates: how many candidates, and how many mask sets.
        peers: other processes that have images of the same batch.

    Returns:
        scalar cross-entropy, averaged over this process's predictions; ``log(candidates.number(N))`` is chance.

    Raises:
        ValueError: fewer images in the batch than candidates are taken from.
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
        raise ValueError(f"a batch of {total} images for InfoNCE with candidates of {images}; use at most {total}")
    asking, answering, right = _plan(first, B, total, images, N, cells, sets, p.device)
    p = p.reshape(-1, D).index_select(0, asking.flatten()).view(*asking.shape, D)
    t = t.reshape(-1, D).index_select(0, answering.flatten()).view(*answering.shape, D)
    logits = p @ t.mT / temperature  # [blocks, predictions, candidates]
    return F.cross_entropy(logits.flatten(0, 1), right.flatten(), ignore_index=_IGNORED)


def chance_of_info_nce(cells: int, candidates: Candidates | None = None) -> float:
    """The loss of picking blindly, at a level of that many predicted cells."""
    return math.log((candidates or Candidates()).number(cells))


def flop_of_info_nce(images: int, cells: int, width: int, candidates: Candidates) -> float:
    """FLOP of the products with the targets, forward and backward to predictions alone.

    Predictions that only fill up the last block are counted, as they are computed.

    Args:
        images: in the batch.
        cells: predicted, of one level.
        width: of features.
    """
    wide, deep = candidates.images, min(candidates.cells, cells)
    rows = candidates.sets * -(-images // wide) * wide * -(-cells // deep) * deep
    return 2.0 * 2 * rows * wide * deep * width


@functools.lru_cache(maxsize=64)
def _plan(
    first: int, own: int, total: int, images: int, all_cells: int, cells: int, sets: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Who is compared with whom, the same in every step and so kept.

    Args:
        first, own: position of this process's first image in the batch, and how many images it has.
        total: images that there are targets of.
        images, cells: candidates' images, and cells of each.
        all_cells: predicted cells of an image.

    Returns:
        rows of predictions [blocks, M], rows of targets [blocks, images * cells], and which of the latter is right for each
        of the former [blocks, M]; -100 where a block has no further prediction.
    """
    image, image_there, image_window = _blocks(first, own, total, images, device)  # [I, P], [I, P], [I, images]
    place, place_there, place_window = _blocks(0, all_cells, all_cells, cells, device)  # [C, cells], ...
    classes = -(-all_cells // cells)
    # Neighbouring cells go to different blocks.
    order = torch.cat([torch.arange(c, all_cells, classes, device=device) for c in range(classes)])
    offset = torch.arange(sets, device=device).view(-1, 1, 1, 1, 1)

    def rows(of_images: Tensor, count: int, of_places: Tensor) -> Tensor:
        """[sets, I, C, images, cells] as rows of [sets * count * all_cells, D], a block each for set, I and C."""
        number = (offset * count + of_images[:, None, :, None]) * all_cells + order[of_places][None, :, None, :]
        return number.flatten(3).flatten(0, 2)

    asking = rows((image - first).clamp(max=own - 1), own, place.clamp(max=all_cells - 1))
    answering = rows(image_window, total, place_window)
    column = (image - image_window[:, :1])[:, None, :, None] * cells + (place - place_window[:, :1])[None, :, None, :]
    there = image_there[:, None, :, None] & place_there[None, :, None, :]
    right = torch.where(there, column, _IGNORED).flatten(2).flatten(0, 1).repeat(sets, 1)
    return asking, answering, right


def _blocks(first: int, own: int, total: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Cut ``total`` things into blocks of ``size`` and look at the ``own`` things from ``first`` on.

    Returns:
        positions of own things by block [blocks, P], whether they are there, as the last one may have fewer [blocks, P], and
        the positions that each block is compared with [blocks, size].
    """
    numbers = range(first // size, -(-(first + own) // size))
    most = max(min((n + 1) * size, first + own) - max(n * size, first) for n in numbers)
    begin = size * torch.arange(numbers.start, numbers.stop, device=device).unsqueeze(1)
    position = begin.clamp(min=first) + torch.arange(most, device=device)
    there = position < (begin + size).clamp(max=first + own)
    window = begin.clamp(max=total - size) + torch.arange(size, device=device)
    return position, there, window
