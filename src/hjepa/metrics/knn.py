"""Cosine k-nearest-neighbour classification, a training-free measure of a representation.

The protocol of the self-supervised literature (instance discrimination, arXiv:1805.01978; DINO, arXiv:2104.14294)
weights votes by ``exp(similarity / 0.07)``; that is `weighted`. The default here is the simpler uniform vote.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.metrics.moments import check_features

_SIMILARITIES_AT_ONCE = 2**25  # 128 MiB of float32
_GROUP = 16  # columns per group in the first step of `_largest`


def nearest_neighbours(train: Tensor, test: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` most similar training rows of every test row by cosine.

    Args:
        train: [N, D].
        test: [M, D], on the same device.
        k: number of neighbours, at most N.

    Returns:
        similarities [M, k] in [-1, 1], descending in each row, and the row numbers in ``train`` [M, k] int64. A row of
        zeros has similarity 0 to all others.

    Raises:
        ValueError: shapes that do not match, or k outside 1 to N.
    """
    check_features(train, "train")
    check_features(test, "test")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"test: width {test.shape[1]}, but the training features have width {train.shape[1]}")
    if not 1 <= k <= train.shape[0]:
        raise ValueError(f"k: {k} neighbours of {train.shape[0]} training images; use 1 to {train.shape[0]}")
    reference = F.normalize(train.detach(), dim=1).T
    rows = max(1, _SIMILARITIES_AT_ONCE // train.shape[0])
    found = [_largest(F.normalize(block, dim=1) @ reference, k) for block in torch.split(test.detach(), rows)]
    return torch.cat([values for values, _ in found]), torch.cat([indices for _, indices in found])


def _largest(similarities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``topk(k, dim=1)`` in two steps, for rows much longer than k.

    The k largest entries lie in the k groups with the largest maxima, so only these are searched. Computing the maxima
    is one vectorised pass over the row, which is faster than `topk`.
    """
    count, columns = similarities.shape
    groups = columns // _GROUP
    if groups < 8 * k:
        return torch.topk(similarities, k, dim=1)
    # Group g holds the columns g, g + groups, g + 2 * groups, ...; columns left over are always searched.
    grouped = similarities[:, : _GROUP * groups].view(count, _GROUP, groups)
    best = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    offsets = groups * torch.arange(_GROUP, device=best.device)
    left_over = torch.arange(_GROUP * groups, columns, device=best.device).expand(count, -1)
    candidates = torch.cat([(best[:, None] + offsets[:, None]).flatten(1), left_over], dim=1)
    values, places = similarities.gather(1, candidates).topk(k, dim=1)
    return values, candidates.gather(1, places)


def knn_predict(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    *,
    k: int | Sequence[int] = 20,
    num_classes: int | None = None,
    weighted: bool = False,
    temperature: float = 0.07,
) -> dict[int, Tensor]:
    """Predict the class of each test row by a vote among its nearest training rows.

    One neighbour search, for the largest ``k``, serves all values of ``k``.

    Args:
        train: reference features [N, D].
        train_labels: [N] int64, 0 to ``num_classes - 1``.
        test: query features [M, D].
        k: one or several numbers of neighbours.
        num_classes: number of classes; the largest label + 1 when not given.
        weighted: votes weigh ``exp(similarity / temperature)``. Otherwise every neighbour has one vote, and a tie
            goes to the class whose voters lie nearer in sum.
        temperature: of the weighted vote.

    Returns:
        for each k the predicted classes, [M] int64.

    Raises:
        ValueError: shapes that do not match, labels out of range, or k outside 1 to N.
    """
    check_features(train, "train")
    wanted = [k] if isinstance(k, int) else list(k)
    if not wanted:
        raise ValueError("k: no value given")
    if min(wanted) < 1:
        raise ValueError(f"k: {min(wanted)} neighbours; use 1 to {train.shape[0]}")
    if train_labels.shape != train.shape[:1]:
        raise ValueError(f"train_labels: {list(train_labels.shape)} labels for {train.shape[0]} training images")
    low, high = int(train_labels.min()), int(train_labels.max())
    classes = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= classes:
        raise ValueError(f"train_labels: values from {low} to {high}, but the classes are 0 to {classes - 1}")
    similarities, neighbours = nearest_neighbours(train, test, max(wanted))
    votes = train_labels.to(neighbours.device)[neighbours]
    return {n: _vote(similarities[:, :n], votes[:, :n], classes, temperature if weighted else None) for n in wanted}


def leave_one_out(features: Tensor, labels: Tensor, *, k: int = 20) -> Tensor:
    """Predict the class of each row by a uniform vote among its nearest other rows (see `knn_predict`).

    Every image serves as a query and as a reference of all others, so that N images give an estimate from N queries and
    N - 1 references.

    Args:
        features: [N, D].
        labels: [N] int64, 0 or more.
        k: number of neighbours, at most N - 1.

    Returns:
        the predicted classes, [N] int64.

    Raises:
        ValueError: shapes that do not match, a negative label, or k outside 1 to N - 1.
    """
    check_features(features)
    rows = features.shape[0]
    if labels.shape != features.shape[:1] or int(labels.min()) < 0:
        raise ValueError(f"labels: expected {rows} labels of 0 or more")
    if not 1 <= k < rows:
        raise ValueError(f"k: {k} neighbours of {rows - 1} other images; use 1 to {rows - 1}")
    similarities, neighbours = nearest_neighbours(features, features, k + 1)
    own = neighbours == torch.arange(rows, device=neighbours.device)[:, None]
    # An image is not always its own nearest: copies are as near. If it is not among them at all, the last one goes.
    own[:, -1] |= ~own.any(dim=1)
    similarities, neighbours = (values[~own].view(rows, k) for values in (similarities, neighbours))
    labels = labels.to(neighbours.device)
    return _vote(similarities, labels[neighbours], int(labels.max()) + 1, None)


def _vote(similarities: Tensor, votes: Tensor, classes: int, temperature: float | None) -> Tensor:
    empty = similarities.new_zeros(len(votes), classes)
    if temperature is not None:
        # Relative to the nearest neighbour, which does not change the winner and avoids overflow at low temperatures.
        weights = ((similarities - similarities[:, :1]) / temperature).exp()
        return empty.scatter_add(1, votes, weights).argmax(dim=1)
    counts = empty.scatter_add(1, votes, torch.ones_like(similarities))
    # Ties go to the class with the larger sum of similarities, that is the smaller sum of distances.
    nearness = empty.scatter_add(1, votes, similarities)
    tied = counts == counts.max(dim=1, keepdim=True).values
    return nearness.masked_fill(~tied, -torch.inf).argmax(dim=1)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of equal entries of two [N] tensors, 0 to 1."""
    return float((predicted.cpu() == labels.cpu()).double().mean())
