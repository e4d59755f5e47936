"""Properties of training masks."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from hjepa.config import MaskingConfig
from hjepa.errors import UserError
from hjepa.masking import MaskSampler

CASES = [
    (MaskingConfig(), (8, 8), (1,)),
    (MaskingConfig(), (8, 8), (1, 1, 1)),
    (MaskingConfig(num_masks=2), (14, 14), (1, 2)),
    (MaskingConfig(), (8, 12), (1, 2, 4)),
    (MaskingConfig(strategy="random"), (8, 8), (1, 2)),
    (MaskingConfig(strategy="hierarchical", mask_scale=(0.08, 0.12)), (8, 8), (1, 1)),
    (MaskingConfig(strategy="hierarchical", mask_scale=(0.08, 0.12)), (16, 16), (1, 2, 4)),
    (MaskingConfig(num_context_masks=2, context_scale=(0.3, 0.4)), (14, 14), (1,)),
    (MaskingConfig(), (8, 12), (1, (2, 1), (4, 3))),
    (MaskingConfig(), (32,), (1,)),
    (MaskingConfig(num_masks=2), (32,), (1, 2, 4)),
    (MaskingConfig(strategy="random"), (32,), (1, 2)),
    (MaskingConfig(strategy="hierarchical", mask_scale=(0.08, 0.12)), (64,), (1, 2, 4)),
    (MaskingConfig(), (4, 8, 8), (1,)),
    (MaskingConfig(num_masks=2), (4, 8, 8), (1, (2, 1, 1), (4, 1, 1))),
    (MaskingConfig(num_masks=2), (4, 8, 8), (1, (1, 2, 2), 2)),
    (MaskingConfig(num_masks=2), (16, 2, 4), (1, (1, 2, 4), (2, 2, 4))),
    (MaskingConfig(strategy="random"), (4, 6, 6), (1, (2, 1, 1))),
    (MaskingConfig(strategy="hierarchical", num_masks=2, mask_scale=(0.1, 0.12)), (4, 8, 8), (1, (2, 1, 1), (4, 2, 2))),
]
Strides = tuple[int | tuple[int, ...], ...]


def sides(stride: int | tuple[int, ...], grid: tuple[int, ...]) -> tuple[int, ...]:
    return (stride,) * len(grid) if isinstance(stride, int) else stride


def children(cells: torch.Tensor, grid: tuple[int, ...], stride: int | tuple[int, ...]) -> set[int]:
    """Indices of the tokens in the given cells of a level."""
    side = sides(stride, grid)
    coarse = [g // s for g, s in zip(grid, side, strict=True)]
    found = set()
    for place in zip(*np.unravel_index(cells.numpy(), coarse), strict=True):
        for token in product(*(range(p * s, p * s + s) for p, s in zip(place, side, strict=True))):
            found.add(int(np.ravel_multi_index(token, grid)))
    return found


@pytest.mark.parametrize(("config", "grid", "strides"), CASES)
def test_counts_are_constant_and_context_never_overlaps_targets(
    config: MaskingConfig, grid: tuple[int, ...], strides: Strides
) -> None:
    sampler = MaskSampler(config, grid, strides, seed=1)
    for step in range(3):
        masks = sampler(step, 64)
        assert masks.context.shape == (64, sampler.counts.context)
        assert masks.context.dtype == torch.int64
        for level, stride in enumerate(strides):
            target = masks.targets[level]
            assert target.shape == (64, sampler.counts.targets[level])
            for image in range(64):
                row = target[image]
                assert len(set(row.tolist())) == len(row)
                assert row.min() >= 0
                assert row.max() < np.prod(grid) // np.prod(sides(stride, grid))
                context = set(masks.context[image].tolist())
                assert len(context) == sampler.counts.context
                assert not context & children(row, grid, stride), "a predicted cell must be hidden whole"


@pytest.mark.parametrize(("config", "grid", "strides"), CASES)
def test_every_patch_can_be_context_and_target(config: MaskingConfig, grid: tuple[int, ...], strides: Strides) -> None:
    sampler = MaskSampler(config, grid, strides, seed=2)
    tokens = int(np.prod(grid))
    seen = torch.zeros(tokens)
    predicted = [torch.zeros(tokens // int(np.prod(sides(stride, grid)))) for stride in strides]
    for step in range(8):
        masks = sampler(step, 512)
        seen += torch.bincount(masks.context.flatten(), minlength=tokens)
        for level, target in enumerate(masks.targets):
            predicted[level] += torch.bincount(target.flatten(), minlength=len(predicted[level]))
    assert (seen > 0).all()
    assert all((p > 0).all() for p in predicted)


@pytest.mark.parametrize("grid", [(24,), (3, 8, 8)])
def test_both_ends_of_an_axis_are_equally_likely(grid: tuple[int, ...]) -> None:
    sampler = MaskSampler(MaskingConfig(), grid, seed=3)
    frequency = torch.zeros(int(np.prod(grid)))
    for step in range(10):
        frequency += torch.bincount(sampler(step, 1000).targets[0].flatten(), minlength=len(frequency))
    block = frequency.view(grid)
    for axis in range(len(grid)):
        assert torch.allclose(block, block.flip(axis), rtol=0.1)


def hidden_cells(sampler: MaskSampler, count: int) -> np.ndarray:
    """Target cells of the first level as booleans, on the token grid."""
    target = sampler(0, count).targets[0].numpy()
    hidden = np.zeros((count, int(np.prod(sampler.grid))), dtype=bool)
    np.put_along_axis(hidden, target, True, axis=1)
    return hidden.reshape(count, *sampler.grid)


def test_blocks_of_a_signal_are_intervals_of_the_requested_length() -> None:
    sampler = MaskSampler(MaskingConfig(num_masks=1, mask_scale=(0.25, 0.25)), (32,), seed=1)
    assert sampler.counts.targets == (8,)
    hidden = hidden_cells(sampler, 100)
    assert ((hidden[:, 1:] != hidden[:, :-1]).sum(axis=1) <= 2).all()


def test_blocks_of_a_clip_hide_the_same_region_in_all_frames() -> None:
    sampler = MaskSampler(MaskingConfig(num_masks=1, mask_scale=(0.25, 0.25), aspect_ratio=(1, 1)), (5, 8, 8), seed=1)
    assert sampler.counts.targets == (80,)
    hidden = hidden_cells(sampler, 100)
    assert (hidden == hidden[:, :1]).all()
    rows, columns = hidden[:, 0].any(axis=2).sum(axis=1), hidden[:, 0].any(axis=1).sum(axis=1)
    assert (rows == 4).all()
    assert (columns == 4).all()


def test_whole_frames_are_hidden_if_a_cell_is_a_frame() -> None:
    config = MaskingConfig(num_masks=1, mask_scale=(0.25, 0.25))
    hidden = hidden_cells(MaskSampler(config, (16, 2, 3), (1, (1, 2, 3)), seed=1), 100)
    frames = hidden.any(axis=(2, 3))
    assert (frames == hidden.all(axis=(2, 3))).all()
    assert (frames.sum(axis=1) == 4).all()
    assert ((frames[:, 1:] != frames[:, :-1]).sum(axis=1) <= 2).all()


@pytest.mark.parametrize("grid", [(32,), (4, 6, 6)])
def test_masks_of_signals_and_clips_do_not_depend_on_the_batch(grid: tuple[int, ...]) -> None:
    for strategy in ("multiblock", "hierarchical"):
        config = MaskingConfig(strategy=strategy, mask_scale=(0.1, 0.12))  # type: ignore[arg-type]
        sampler = MaskSampler(config, grid, (1, 1), seed=7)
        whole, part = sampler(5, range(32)), sampler(5, range(20, 28))
        assert torch.equal(whole.context[20:28], part.context)
        assert all(torch.equal(w[20:28], p) for w, p in zip(whole.targets, part.targets, strict=True))


def test_first_and_last_rows_and_columns_are_equally_likely() -> None:
    sampler = MaskSampler(MaskingConfig(), (8, 8), seed=3)
    frequency = torch.zeros(64)
    for step in range(10):
        frequency += torch.bincount(sampler(step, 1000).targets[0].flatten(), minlength=64)
    square = frequency.view(8, 8)
    for flipped in (square.flip(0), square.flip(1), square.T):
        assert torch.allclose(square, flipped, rtol=0.1)


def test_masks_depend_on_seed_step_and_position_only() -> None:
    config = MaskingConfig(sets_per_image=2)
    sampler, twin = (MaskSampler(config, (14, 14), (1, 2), seed=7) for _ in range(2))
    whole = sampler(5, range(32))
    part = twin(5, range(20, 28))
    rows = torch.cat([torch.arange(20, 28), 32 + torch.arange(20, 28)])  # two sets, set by set
    assert torch.equal(whole.context[rows], part.context)
    assert all(torch.equal(w[rows], p) for w, p in zip(whole.targets, part.targets, strict=True))
    assert not torch.equal(whole.context, sampler(6, range(32)).context)
    assert not torch.equal(whole.context, MaskSampler(config, (14, 14), (1, 2), seed=8)(5, range(32)).context)


def test_two_sets_of_an_image_differ() -> None:
    masks = MaskSampler(MaskingConfig(sets_per_image=2), (8, 8), seed=0)(0, 16)
    assert masks.context.shape[0] == 32
    assert not torch.equal(masks.context[:16], masks.context[16:])


def test_levels_of_equal_stride_share_their_cells_unless_nested() -> None:
    shared = MaskSampler(MaskingConfig(), (8, 8), (1, 1, 2))
    assert shared.groups == ((0, 1), (2,))
    masks = shared(0, 4)
    assert torch.equal(masks.targets[0], masks.targets[1])
    nested = MaskSampler(MaskingConfig(strategy="hierarchical", mask_scale=(0.08, 0.12)), (8, 8), (1, 1))
    assert nested.groups == ((0,), (1,))


def test_hierarchical_masks_are_larger_for_coarser_levels_and_nested() -> None:
    config = MaskingConfig(strategy="hierarchical", mask_scale=(0.08, 0.12), level_growth=1.6)
    sampler = MaskSampler(config, (16, 16), (1, 1, 1), seed=4)
    assert sampler.counts.targets[0] < sampler.counts.targets[1] < sampler.counts.targets[2]
    masks = sampler(0, 64)
    for image in range(64):
        fine, middle, coarse = (set(t[image].tolist()) for t in masks.targets)
        assert fine <= coarse
        assert middle <= coarse


def test_level_growth_controls_the_size_of_coarse_regions() -> None:
    def coarse(growth: float) -> int:
        config = MaskingConfig(strategy="hierarchical", mask_scale=(0.05, 0.08), level_growth=growth)
        return MaskSampler(config, (16, 16), (1, 1)).counts.targets[1]

    assert coarse(2.5) > coarse(1.2)


def test_block_masks_are_contiguous_and_random_ones_are_not() -> None:
    def neighbours(strategy: str) -> float:
        config = MaskingConfig(strategy=strategy)  # type: ignore[arg-type]
        target = MaskSampler(config, (14, 14), seed=5)(0, 200).targets[0]
        hidden = np.zeros((200, 196), dtype=bool)
        np.put_along_axis(hidden, target.numpy(), True, axis=1)
        square = hidden.reshape(-1, 14, 14)
        return float((square[:, :, 1:] & square[:, :, :-1]).sum() / hidden.sum())

    assert neighbours("multiblock") > 1.3 * neighbours("random")


def test_random_masks_have_the_token_counts_of_multiblock() -> None:
    for grid, strides in (((8, 8), (1,)), ((14, 14), (1, 2))):
        blocks = MaskSampler(MaskingConfig(), grid, strides).counts
        assert MaskSampler(MaskingConfig(strategy="random"), grid, strides).counts == blocks


def test_area_and_aspect_are_drawn_independently() -> None:
    from hjepa.masking.draw import block_sizes

    u = np.random.default_rng(0).random((2, 20000), dtype=np.float32)
    h, w = block_sizes(u[0], u[1], (100, 100), (0.1, 0.3), (0.5, 2.0))
    area, aspect = h * w, np.log(h / w)
    assert abs(np.corrcoef(area, aspect)[0, 1]) < 0.03
    assert area.min() == pytest.approx(1000, rel=0.01)
    assert area.max() == pytest.approx(3000, rel=0.01)
    assert np.exp(aspect).max() == pytest.approx(2, rel=0.01)


def test_more_and_larger_blocks_hide_more() -> None:
    base = MaskSampler(MaskingConfig(num_masks=1), (14, 14)).counts
    more = MaskSampler(MaskingConfig(num_masks=3), (14, 14)).counts
    larger = MaskSampler(MaskingConfig(num_masks=1, mask_scale=(0.3, 0.4)), (14, 14)).counts
    assert more.hidden > base.hidden
    assert larger.hidden > base.hidden
    assert more.context < base.context


@pytest.mark.parametrize(
    ("config", "grid", "strides", "key"),
    [
        (MaskingConfig(), (2, 2), (1,), "masking.context_scale"),
        (MaskingConfig(num_masks=40), (8, 8), (1,), "masking.context_scale"),
        (MaskingConfig(), (8, 8), (1, 8), "masking"),
        (MaskingConfig(mask_scale=(0.9, 1.0)), (8, 8), (1,), "masking.mask_scale"),
        (MaskingConfig(strategy="hierarchical", level_growth=6), (8, 8), (1, 1), "masking.mask_scale"),
        (MaskingConfig(mask_scale=(0.001, 0.002)), (8, 8), (1,), "masking.mask_scale"),
        (MaskingConfig(), (3,), (1,), "masking.context_scale"),
        (MaskingConfig(), (8,), (1, 8), "masking"),
        (MaskingConfig(mask_scale=(0.01, 0.02)), (16, 4, 4), (1,), "masking.mask_scale"),
    ],
)
def test_the_error_for_a_grid_that_is_too_small_says_what_fits(
    config: MaskingConfig, grid: tuple[int, ...], strides: Strides, key: str
) -> None:
    with pytest.raises(UserError, match=key) as error:
        MaskSampler(config, grid, strides)
    assert "\n" not in str(error.value)
    assert "use" in str(error.value) or "lower" in str(error.value)
