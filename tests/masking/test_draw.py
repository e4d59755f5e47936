"""Choice of cells by preference, compared with a plain sort; blocks, compared with a loop."""

from __future__ import annotations

import numpy as np
import pytest

from hjepa.masking.draw import RANDOM_BITS, Box, choose, cover, indices


@pytest.mark.parametrize("values", [3, 2**RANDOM_BITS], ids=["many equal keys", "hardly any"])
@pytest.mark.parametrize("count", [1, 20, 48, 49])
def test_choice_equals_the_head_of_a_stable_sort(values: int, count: int) -> None:
    generator = np.random.default_rng(count)
    preference = generator.integers(0, 4, (300, 49)).astype(np.uint8)
    random = generator.integers(0, values, (300, 49)).astype(np.uint32)
    by_key = np.lexsort((random, preference), axis=1)
    expected = np.sort(by_key[:, :count], axis=1)
    chosen = choose(preference, random, count)
    assert np.array_equal(indices(chosen, count), expected)


def test_highest_preference_and_random_number_do_not_overflow() -> None:
    preference = np.array([[255, 0, 255]], dtype=np.uint8)
    random = np.array([[2**RANDOM_BITS - 1, 2**RANDOM_BITS - 1, 0]], dtype=np.uint32)
    assert indices(choose(preference, random, 2), 2).tolist() == [[1, 2]]


@pytest.mark.parametrize("grid", [(70,), (5, 70), (4, 3, 9)])
def test_blocks_cover_their_cells(grid: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    sizes = np.stack([generator.integers(1, side + 1, (40, 3)) for side in grid], axis=-1)
    starts = generator.integers(0, np.array(grid) - sizes + 1)
    expected = np.zeros((40, *grid), dtype=bool)
    for image in range(40):
        for first, size in zip(starts[image], sizes[image], strict=True):
            expected[image][tuple(slice(f, f + n) for f, n in zip(first, size, strict=True))] = True
    assert np.array_equal(cover(Box(starts, sizes), grid), expected.reshape(40, -1))
