"""Taking cells by preference, against a plain sort; rectangles, against a loop."""

from __future__ import annotations

import numpy as np
import pytest

from hjepa.masking.blocks import cover
from hjepa.masking.select import RANDOM_BITS, choose, indices


@pytest.mark.parametrize("values", [3, 2**RANDOM_BITS], ids=["many equal keys", "hardly any"])
@pytest.mark.parametrize("count", [1, 20, 48, 49])
def test_choice_is_the_head_of_a_stable_sort(values: int, count: int) -> None:
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


def test_rectangles_cover_their_cells() -> None:
    generator = np.random.default_rng(0)
    rows, columns = 5, 70
    height, width = generator.integers(1, rows + 1, (40, 3)), generator.integers(1, columns + 1, (40, 3))
    top, left = generator.integers(0, rows - height + 1), generator.integers(0, columns - width + 1)
    expected = np.zeros((40, rows, columns), dtype=bool)
    for image in range(40):
        for block in range(3):
            down = slice(top[image, block], top[image, block] + height[image, block])
            across = slice(left[image, block], left[image, block] + width[image, block])
            expected[image, down, across] = True
    assert np.array_equal(cover((top, left, height, width), (rows, columns)), expected.reshape(40, -1))
