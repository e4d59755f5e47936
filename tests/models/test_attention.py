"""Attention weights, and encoders at other input sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hjepa import create_hjepa
from hjepa.models import VisionTransformer
from hjepa.models.blocks import Attention, Block
from hjepa.models.positions import rope_angles, sincos, stretch


def small_encoder(**changes: Any) -> VisionTransformer:
    options: dict[str, Any] = {"embed_dim": 32, "depth": 3, "num_heads": 2, "levels": [(1, 1), (3, 2)], "seed": 3}
    return create_hjepa("vit_tiny_patch4_32", **options | changes).target_encoder.eval()


@pytest.mark.parametrize("rotary", [False, True])
def test_written_out_attention_equals_the_fused_kernel_and_its_rows_sum_to_one(rotary: bool) -> None:
    torch.manual_seed(0)
    layer, x = Attention(32, 4), torch.randn(3, 9, 32)
    angles = rope_angles(8, (3, 3)) if rotary else None
    output, weights = layer.with_weights(x, angles)
    torch.testing.assert_close(output, layer(x, angles))
    assert weights.shape == (3, 4, 9, 9)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 4, 9))


def test_a_block_with_weights_gives_the_output_of_the_block() -> None:
    torch.manual_seed(0)
    block, x = Block(32, 4, layer_scale=0.3).eval(), torch.randn(2, 9, 32)
    output, weights = block.with_weights(x)
    torch.testing.assert_close(output, block(x))
    # The weights are those with which the values are mixed: zeroing the values of an unattended token changes nothing.
    values = block.attn.qkv(block.norm1(x)).view(2, 9, 3, 4, 8).permute(2, 0, 3, 1, 4)[2]
    mixed = block.attn.proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, block.attn(block.norm1(x)))


@pytest.mark.parametrize("position", ["sincos", "rope"])
def test_attention_of_an_encoder_is_that_of_its_blocks(position: str) -> None:
    encoder, images = small_encoder(position=position), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        weights = encoder.attention(images)
        assert [w.shape for w in weights] == [(2, 2, 64, 64)] * 3
        # The third block's input is the output of the first two.
        seen = []
        encoder.blocks[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        encoder(images)
        angles = encoder.angles if position == "rope" else None
        _, expected = encoder.blocks[2].with_weights(seen[0], angles)
    torch.testing.assert_close(weights[2], expected)
    with pytest.raises(ValueError, match="resize or convert"):
        encoder.attention(images[:, :, :16])


def test_positions_of_the_trained_size_are_exactly_the_trained_ones() -> None:
    grid = (8, 6)
    assert torch.equal(sincos(32, grid), sincos(32, grid, over=grid))
    assert torch.equal(rope_angles(16, grid), rope_angles(16, grid, over=grid))
    coordinates = torch.arange(5, dtype=torch.float64)
    assert torch.equal(stretch(coordinates, 5, 5), coordinates)


def test_positions_of_a_larger_grid_lie_between_the_trained_ones() -> None:
    # Three tokens to one: the middle one is where the trained token was.
    trained, larger = sincos(32, (4, 4)).view(4, 4, 32), sincos(32, (12, 12), over=(4, 4)).view(12, 12, 32)
    torch.testing.assert_close(larger[1::3, 1::3], trained)
    # Two to one: both are as far from it as from the border between two tokens.
    doubled = stretch(torch.arange(8, dtype=torch.float64), 8, 4)
    assert doubled.tolist() == [-0.25, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25]
    # Pooled cells of a larger grid keep the positions of their middles.
    torch.testing.assert_close(sincos(32, (12, 12), 3, over=(4, 4)), sincos(32, (4, 4)))


@pytest.mark.parametrize("position", ["sincos", "rope"])
def test_an_encoder_at_its_own_size_is_the_same_and_at_another_has_more_cells(position: str) -> None:
    encoder, images = small_encoder(position=position), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = encoder.levels(images)
        for ours, theirs in zip(before, encoder.at_size((32, 32)).levels(images), strict=True):
            assert torch.equal(ours, theirs)
        large = encoder.at_size((64, 32))
        assert [level.shape for level in large.levels(torch.randn(1, 3, 64, 32))] == [(1, 128, 32), (1, 32, 32)]
        # The encoder itself has not changed, and both have the same weights.
        assert all(torch.equal(a, b) for a, b in zip(before, encoder.levels(images), strict=True))
    assert encoder.image_size == (32, 32)
    assert large.patch_embed.proj.weight is encoder.patch_embed.proj.weight


def test_an_enlarged_flat_picture_has_the_features_of_the_small_one() -> None:
    # Every patch of a flat picture is the same at any size; only positions tell tokens apart, and with three times as
    # many tokens the middle ones have the trained positions. One block, whose attention sees the same mixture.
    encoder = small_encoder(depth=1, levels=[(1, 1)])
    with torch.no_grad():
        small = encoder.levels(torch.full((1, 3, 32, 32), 0.3))[0].view(8, 8, 32)
        large = encoder.at_size((96, 96)).levels(torch.full((1, 3, 96, 96), 0.3))[0].view(24, 24, 32)
    assert (large[1::3, 1::3] - small).abs().max() < 0.1 * small.std()


def test_sizes_that_do_not_fit_are_refused() -> None:
    encoder = small_encoder()
    with pytest.raises(ValueError, match="30x32"):
        encoder.at_size((30, 32))
    with pytest.raises(ValueError, match="multiple of 2x2"):
        encoder.at_size((36, 32))
