"""Nearest neighbours among embeddings, in blocks, so that memory does not grow with the number of pairs."""

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
class Neighbours:
    """The most similar other images of every image.

    Attributes:
        similarities: float32 [N, k], cosine similarity, descending in each row.
        rows: int64 [N, k], their rows.
    """

    similarities: NDArray[np.float32]
    rows: NDArray[np.int64]

    @property
    def closest(self) -> NDArray[np.float32]:
        """Similarity of every image to its nearest neighbour, [N]."""
        return self.similarities[:, 0]

    @property
    def second(self) -> NDArray[np.float32]:
        """Similarity of every image to its second nearest neighbour, or to its nearest if that is all there are, [N]."""
        return self.similarities[:, min(1, self.similarities.shape[1] - 1)]

    @property
    def distance(self) -> NDArray[np.float32]:
        """1 - mean similarity to the k nearest neighbours, [N]: large for an image that is like no other."""
        mean: NDArray[np.float32] = 1 - self.similarities.mean(axis=1)
        return mean

    def groups(self, threshold: float) -> list[list[int]]:
        """Rows that are connected by similarities at or above a threshold, largest group first.

        Only the k nearest neighbours of an image connect it, which is enough for groups of any size.
        """
        count, k = self.rows.shape
        near = self.similarities >= threshold
        edges = np.repeat(np.arange(count), k)[near.ravel()], self.rows[near]
        graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(count, count))
        _, component = connected_components(graph, directed=False)
        order = np.argsort(component, kind="stable")
        _, starts, sizes = np.unique(component[order], return_index=True, return_counts=True)
        found = [order[at : at + size].tolist() for at, size in zip(starts, sizes, strict=True) if size > 1]
        return sorted(found, key=lambda rows: (-len(rows), rows[0]))


def neighbours(
    store: Embeddings, k: int, device: torch.device, *, block: int = BLOCK, console: bool = False
) -> Neighbours:
    """The k nearest other images of every image, a pair of blocks at a time.

    Args:
        store: at least two images.
        k: neighbours; fewer if there are not so many images.
        device: where products are computed.
        block: rows per block.
        console: draw a progress bar where standard output is a terminal.
    """
    count = len(store)
    k = min(k, count - 1)
    found = Neighbours(np.empty((count, k), np.float32), np.empty((count, k), np.int64))
    with WorkProgress("compared", count, "images", console=console) as progress:
        for start, stop in _blocks(count, block):
            rows = store.directions(start, stop, device)
            best = _Best(stop - start, k, device)
            for first, last in _blocks(count, block):
                similarities = rows @ store.directions(first, last, device).T
                if first == start:
                    similarities.fill_diagonal_(-torch.inf)
                best.add(similarities, first)
            # Rounding may exceed 1 by a few units in the last place.
            found.similarities[start:stop] = best.similarities.clamp(max=1).cpu().numpy()
            found.rows[start:stop] = best.rows.cpu().numpy()
            progress.advance(stop - start)
    return found


def _blocks(count: int, block: int = BLOCK) -> Iterator[tuple[int, int]]:
    for start in range(0, count, block):
        yield start, min(start + block, count)
