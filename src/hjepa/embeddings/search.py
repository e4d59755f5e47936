"""Nearest neighbours and groups of near copies among embeddings, in blocks, so that memory does not grow with pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.embeddings.store import Embeddings

BLOCK = 4096
"""Rows per block: similarities of a pair of blocks take 64 MiB."""


def nearest(queries: Tensor, store: Embeddings, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The k most similar rows of every query, by cosine.

    Args:
        queries: [Q, D], as `Embeddings.directions`.
        store: what is searched.
        k: number of neighbours; fewer if there are not so many rows.
        device: where products are computed.

    Returns:
        similarities [Q, k], descending, and rows int64 [Q, k], on the CPU.
    """
    best = _Best(len(queries), min(k, len(store)), device)
    queries = queries.to(device)
    for start, stop in _blocks(len(store)):
        best.add(queries @ store.directions(start, stop, device).T, start)
    return best.similarities.cpu(), best.rows.cpu()


class _Best:
    """The k largest similarities of each row, over blocks of columns."""

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self.k = k
        self.similarities = torch.full((rows, k), -torch.inf, device=device)
        self.rows = torch.full((rows, k), -1, dtype=torch.int64, device=device)

    def add(self, similarities: Tensor, start: int) -> None:
        """Take the columns ``start`` and following, [rows, columns]."""
        values, places = similarities.topk(min(self.k, similarities.shape[1]), dim=1)
        together = torch.cat([self.similarities, values], dim=1)
        rows = torch.cat([self.rows, places + start], dim=1)
        self.similarities, order = together.topk(self.k, dim=1)
        self.rows = rows.gather(1, order)


@dataclass(frozen=True)
class Relations:
    """How the images of a set lie to each other.

    Attributes:
        groups: int64 [N]: group of near copies of each image; an image without any is alone in its group.
        closest: float32 [N], similarity to the most similar other image.
        crowd: float32 [N], mean similarity to the k most similar other images.
        pairs: number of pairs at or above the threshold.
    """

    groups: NDArray[np.int64]
    closest: NDArray[np.float32]
    crowd: NDArray[np.float32]
    pairs: int


def relate(
    store: Embeddings, threshold: float, k: int, device: torch.device, *, block: int = BLOCK, console: bool = False
) -> Relations:
    """Compare all images with all others, a pair of blocks at a time.

    Two images belong to one group if their similarity is at least the threshold, or if others connect them.

    Args:
        store: at least two images.
        threshold: cosine similarity of near copies.
        k: neighbours that `Relations.crowd` averages; fewer if there are not so many images.
        device: where products are computed.
        block: rows per block.
        console: draw a progress bar where standard output is a terminal.
    """
    count = len(store)
    k = min(k, count - 1)
    forest = _Forest(count)
    closest, crowd = np.empty(count, np.float32), np.empty(count, np.float32)
    with WorkProgress("compared", count, "images", console=console) as progress:
        for start, stop in _blocks(count, block):
            rows = store.directions(start, stop, device)
            best = _Best(stop - start, k, device)
            for first, last in _blocks(count, block):
                found = rows @ store.directions(first, last, device).T
                if first == start:
                    found.fill_diagonal_(-torch.inf)
                best.add(found, first)
                if first >= start:
                    # Each pair once: later blocks, and in the block itself the part above the diagonal.
                    near = (found.triu(1) if first == start else found) >= threshold
                    if first == start:
                        near = near.triu(1)
                    a, b = near.nonzero(as_tuple=True)
                    forest.join((a + start).cpu().numpy(), (b + first).cpu().numpy())
            closest[start:stop] = best.similarities[:, 0].cpu().numpy()
            crowd[start:stop] = best.similarities.mean(dim=1).cpu().numpy()
            progress.advance(stop - start)
    return Relations(forest.groups, closest, crowd, forest.pairs)


class _Forest:
    """Groups that grow as pairs arrive. Memory depends on the number of images alone."""

    def __init__(self, count: int) -> None:
        self.groups: NDArray[np.int64] = np.arange(count, dtype=np.int64)
        self.pairs = 0

    def join(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Connect images ``a[i]`` and ``b[i]``."""
        self.pairs += len(a)
        edges = np.stack([self.groups[a], self.groups[b]])
        edges = np.unique(edges[:, edges[0] != edges[1]], axis=1)
        if not edges.size:
            return
        involved, places = np.unique(edges, return_inverse=True)
        places = places.reshape(edges.shape)
        graph = coo_array((np.ones(edges.shape[1], bool), (places[0], places[1])), shape=(len(involved),) * 2)
        _, component = connected_components(graph, directed=False)
        # A group is called by its first image.
        first = np.full(component.max() + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, component, involved)
        names = np.arange(len(self.groups), dtype=np.int64)
        names[involved] = first[component]
        self.groups = names[self.groups]


def _blocks(count: int, block: int = BLOCK) -> Iterator[tuple[int, int]]:
    for start in range(0, count, block):
        yield start, min(start + block, count)
