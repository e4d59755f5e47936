"""InfoNCE candidates: the same number for every prediction, and never a duplicate of its target."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.objectives import Candidates, Objective, Peers, info_nce
from hjepa.objectives.info_nce import chance_of_info_nce


def features(sets: int, images: int, cells: int, width: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(sets * images, cells, width, generator=torch.Generator().manual_seed(seed))


def block(index: int, size: int, count: int) -> range:
    """The block of at most `size` out of `count` elements with which element `index` is compared."""
    start = min(index // size * size, count - size)
    return range(start, start + size)


def by_hand(prediction: Tensor, target: Tensor, temperature: float, chosen: Candidates) -> Tensor:
    """The loss of every prediction, [rows, N], one after the other."""
    rows, N, _ = prediction.shape
    B, m = rows // chosen.sets, min(chosen.cells, N)
    classes = math.ceil(N / m)
    order = sorted(range(N), key=lambda j: (j % classes, j // classes))
    losses = torch.zeros(rows, N)
    for row in range(rows):
        start, image = row // B * B, row % B
        for place, cell in enumerate(order):
            pairs = [(start + i, order[c]) for i in block(image, chosen.images, B) for c in block(place, m, N)]
            assert len(set(pairs)) == chosen.images * m
            similar = torch.stack([F.cosine_similarity(prediction[row, cell], target[pair], dim=0) for pair in pairs])
            losses[row, cell] = -(similar / temperature).log_softmax(0)[pairs.index((row, cell))]
    return losses


SIZES = [
    # sets, images, cells, candidates' images, candidates' cells
    (1, 8, 6, 4, 3),
    (1, 7, 5, 4, 2),  # neither divides
    (2, 6, 7, 4, 3),
    (3, 5, 1, 5, 14),  # one cell, as of a level of the whole image
    (1, 4, 9, 4, 14),  # fewer cells than asked for
]


@pytest.mark.parametrize(("sets", "images", "cells", "k", "m"), SIZES)
def test_candidates_are_the_block_of_cells_in_the_block_of_images(
    sets: int, images: int, cells: int, k: int, m: int
) -> None:
    prediction, target = (features(sets, images, cells, seed=s) for s in (1, 2))
    prediction.requires_grad_()
    chosen = Candidates(k, m, sets)
    loss = info_nce(prediction, target, 0.3, candidates=chosen)
    expected = by_hand(prediction, target, 0.3, chosen).mean()
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(value, prediction)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, theirs)
    assert (ours.abs().amax(dim=-1) > 0).all()


@pytest.mark.parametrize("cells", [1, 14, 27, 64])
@pytest.mark.parametrize("images", [64, 100, 128])
@pytest.mark.parametrize("sets", [1, 2])
def test_the_number_of_candidates_does_not_depend_on_the_batch(cells: int, images: int, sets: int) -> None:
    chosen = Candidates(sets=sets)
    # A zero prediction is equally similar to all candidates, so its loss is the logarithm of their number.
    blind = torch.zeros(sets * images, cells, 8)
    loss = info_nce(blind, features(sets, images, cells, 8), candidates=chosen)
    assert loss == pytest.approx(math.log(64 * min(cells, 14)), rel=1e-6)
    assert loss == pytest.approx(chance_of_info_nce(cells, chosen), rel=1e-6)


def test_a_cell_hidden_in_two_mask_sets_is_not_its_own_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(16, 64, 32, generator=generator).repeat(2, 1, 1)
    hidden = torch.stack([torch.randperm(64, generator=generator)[:27] for _ in range(32)])
    target = whole.gather(1, hidden.unsqueeze(-1).expand(-1, -1, 32))
    loss = info_nce(target, target, 0.05, candidates=Candidates(16, 27, sets=2))
    assert loss < 1e-3


@pytest.mark.parametrize(("images", "processes"), [(6, 2), (5, 3), (8, 2), (4, 4)])
@pytest.mark.parametrize("sets", [1, 2])
def test_several_processes_compute_the_loss_of_one(images: int, processes: int, sets: int) -> None:
    whole = features(sets, images * processes, 5, seed=1).requires_grad_()
    target = features(sets, images * processes, 5, seed=2)
    chosen = Candidates(8, 3, sets)

    def part(x: Tensor, rank: int) -> Tensor:
        return x.view(sets, processes, images, *x.shape[1:])[:, rank].flatten(0, 1)

    gathered = torch.cat([F.normalize(part(target, rank), dim=-1) for rank in range(processes)])
    exchanged = []

    def gather(x: Tensor) -> Tensor:
        exchanged.append(x)
        return gathered

    losses = []
    for rank in range(processes):
        mine = [part(x, rank) for x in (whole, target)]
        losses.append(info_nce(mine[0], mine[1], 0.3, candidates=chosen, peers=Peers(rank, processes, gather)))
    alone = info_nce(whole, target, 0.3, candidates=chosen)
    together = torch.stack(losses).mean()
    torch.testing.assert_close(together, alone)
    ours, theirs = (torch.autograd.grad(value, whole)[0] for value in (together, alone))
    torch.testing.assert_close(ours, theirs)
    # If the images of a process fill whole blocks, it needs no targets of other processes.
    assert len(exchanged) == (0 if images == 8 else processes)


def test_targets_get_no_gradient_and_too_few_images_are_an_error() -> None:
    prediction, target = (features(1, 4, 3, seed=s).requires_grad_() for s in (1, 2))
    info_nce(prediction, target, candidates=Candidates(4, 3)).backward()
    assert target.grad is None
    with pytest.raises(ValueError, match="4 images"):
        info_nce(prediction, target, candidates=Candidates(5, 3))
    objective = Objective("infonce", [1.0], candidates=Candidates(4, 2))
    assert objective.chance([target])[0] == pytest.approx(math.log(8))
