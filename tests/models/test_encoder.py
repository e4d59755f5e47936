"""The encoder: parameter names, positions, dropped tokens, attention."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from hjepa.config import ModelConfig, resolve
from hjepa.config.grid import cells
from hjepa.models import VisionTransformer
from hjepa.models.blocks import MOST_KEYS, Block, attend, attend_by_products
from hjepa.models.encoder import PatchEmbed
from hjepa.models.levels import parent_cells, pool_cells
from hjepa.models.positions import rope_angles, rotate, sincos


def encoder(size: int | tuple[int, int] = 32, channels: int = 3, **keys: object) -> VisionTransformer:
    settings = {"encoder_type": "vit_tiny_patch8_32", "embed_dim": 32, "depth": 3, "num_heads": 2, **keys}
    config = ModelConfig.model_validate(settings)
    torch.manual_seed(0)
    return VisionTransformer(config, resolve(config, size), channels)


@pytest.mark.parametrize("position", ["sincos", "rope"])
def test_hidden_tokens_cannot_influence_the_context(position: str) -> None:
    model = encoder(position=position)
    images = torch.randn(2, 3, 32, 32)
    keep = torch.tensor([[0, 5, 6], [3, 10, 15]])
    changed = images.clone()
    for row, kept in enumerate(keep.tolist()):
        for token in set(range(16)) - set(kept):
            y, x = divmod(token, 4)
            changed[row, :, y * 8 : y * 8 + 8, x * 8 : x * 8 + 8] = torch.randn(3, 8, 8)
    for a, b in zip(model(images, keep).values(), model(changed, keep).values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("position", ["sincos", "rope"])
def test_keeping_all_tokens_in_any_order_equals_encoding_the_whole_image(position: str) -> None:
    model = encoder(position=position)
    images = torch.randn(2, 3, 32, 32)
    order = torch.randperm(16)
    whole = model(images)
    kept = model(images, order.expand(2, -1))
    for depth, features in whole.items():
        assert torch.allclose(features[:, order], kept[depth], atol=1e-5)


@pytest.mark.parametrize(("size", "channels", "grid"), [((32, 48), 1, (4, 6)), ((16, 40), 5, (2, 5)), (8, 3, (1, 1))])
def test_any_size_and_number_of_channels(size: int | tuple[int, int], channels: int, grid: tuple[int, int]) -> None:
    model = encoder(size, channels)
    height, width = (size, size) if isinstance(size, int) else size
    taps = model(torch.randn(2, channels, height, width))
    assert all(t.shape == (2, grid[0] * grid[1], 32) for t in taps.values())
    with pytest.raises(ValueError, match="resize"):
        model(torch.randn(2, channels, height + 8, width))


@pytest.mark.parametrize(
    ("patch", "size"), [((8, 8), (32, 32)), ((4, 8), (12, 16)), ((4,), (24,)), ((2, 4, 8), (6, 8, 16))]
)
def test_the_patch_projection_equals_a_convolution(patch: tuple[int, ...], size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(patch, 3, 32)
    images = torch.randn(2, 3, *size)
    expected = embed.proj(images).flatten(2).transpose(1, 2)
    assert torch.allclose(embed(images), expected, atol=1e-5)
    keep = torch.tensor([[2, 0], [1, 3]])
    assert torch.allclose(embed(images, keep), expected[torch.arange(2)[:, None], keep], atol=1e-5)


def test_images_of_a_wrong_shape_are_refused_with_the_expected_shape() -> None:
    config = ModelConfig.model_validate({"embed_dim": 32, "depth": 1, "num_heads": 2, "num_hierarchies": 1})
    model = VisionTransformer(config, resolve(config, (4, 16, 16), (2, 8, 8)), 3)
    assert model(torch.randn(2, 3, 4, 16, 16))[1].shape == (2, 8, 32)
    with pytest.raises(ValueError, match="4x16x16"):
        model(torch.randn(2, 3, 16, 16))


def test_blocks_after_the_last_tap_are_not_built() -> None:
    model = encoder(levels=[{"depth": 1}, {"depth": 2}])
    assert len(model.blocks) == 2
    assert set(model(torch.randn(1, 3, 32, 32))) == {1, 2}


def test_parameter_names_equal_timms() -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, global_pool="avg", class_token=False, fc_norm=False
    )
    config = ModelConfig(encoder_type="vit_tiny_patch16_224", num_hierarchies=1)
    ours = VisionTransformer(config, resolve(config), 3)
    names = {n: p.shape for n, p in theirs.state_dict().items() if n != "pos_embed"}
    assert {n: p.shape for n, p in ours.state_dict().items()} == names


def test_layer_scale_and_drop_path() -> None:
    scaled = encoder(layer_scale=0.25)
    assert all(bool((b.ls1.gamma == 0.25).all()) for b in scaled.blocks)
    dropping = encoder(drop_path=0.9).train()
    images = torch.randn(8, 3, 32, 32)
    assert not torch.equal(dropping(images)[3], dropping(images)[3])
    dropping.eval()
    assert torch.equal(dropping(images)[3], dropping(images)[3])


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, frugal = encoder(), encoder(gradient_checkpointing=True)
    images = torch.randn(2, 3, 32, 32)
    for model in (plain, frugal):
        model.train()(images)[3].square().sum().backward()
    for a, b in zip(plain.parameters(), frugal.parameters(), strict=True):
        if a.grad is not None:
            assert b.grad is not None
            assert torch.allclose(a.grad, b.grad, atol=1e-5)


def test_positions_are_distinct_and_cells_are_placed_at_their_centre() -> None:
    table = sincos(32, (6, 8))
    assert torch.pdist(table).min() > 0.1
    coarse = sincos(32, (6, 8), stride=2)
    assert coarse.shape == (12, 32)
    # The centre of the first 2x2 cell is nearest to its four tokens.
    nearest = (table - coarse[0]).norm(dim=1).topk(4, largest=False).indices
    assert set(nearest.tolist()) == {0, 1, 8, 9}


AXES = [(24,), (5, 6), (3, 4, 5)]


@pytest.mark.parametrize("grid", AXES)
def test_squared_distances_between_positions_are_a_sum_over_axes(grid: tuple[int, ...]) -> None:
    """The squared distance of two positions is a sum over axes of a function of their distance along that axis."""
    table = sincos(32, grid).view(*grid, 32).double()
    origin = table[(0,) * len(grid)]
    for axis, count in enumerate(grid):
        along = table[tuple(slice(None) if a == axis else 0 for a in range(len(grid)))]
        steps = (along[1:] - along[:-1]).square().sum(-1)
        assert torch.allclose(steps, steps[:1].expand(count - 1), atol=1e-5), "equal steps are equally far"
        moved = [(along[k] - along[0]) != 0 for k in range(1, count)]
        features = sum(m.int() for m in moved) > 0  # type: ignore[attr-defined]
        others = [a for a in range(len(grid)) if a != axis]
        for other in others:
            step = table[tuple(1 if a == other else 0 for a in range(len(grid)))] - origin
            assert not (step[features] != 0).any(), "no feature tells of two axes"
        assert features.any()


@pytest.mark.parametrize("grid", AXES)
def test_rotary_scores_depend_on_the_distance_along_every_axis(grid: tuple[int, ...]) -> None:
    angles = rope_angles(12, grid)
    q, k = torch.randn(1, 1, 1, 12), torch.randn(1, 1, 1, 12)
    n = len(angles)
    scores = (rotate(q.expand(1, 1, n, 12), angles) @ rotate(k.expand(1, 1, n, 12), angles).transpose(-1, -2))[0, 0]
    places = torch.cartesian_prod(*(torch.arange(side) for side in grid)).view(n, len(grid))
    offset = places[None] - places[:, None]
    found: dict[tuple[int, ...], float] = {}
    for i in range(n):
        for j in range(n):
            step = tuple(offset[i, j].tolist())
            assert float(scores[i, j]) == pytest.approx(found.setdefault(step, float(scores[i, j])), abs=1e-4)
    assert len({round(score, 4) for score in found.values()}) > 0.9 * len(found)


@pytest.mark.parametrize(
    ("grid", "stride"), [((12,), 3), ((4, 6), (2, 3)), ((4, 4, 6), (2, 1, 1)), ((4, 4, 6), (4, 2, 3))]
)
def test_a_cell_is_placed_at_the_mean_position_of_its_tokens(
    grid: tuple[int, ...], stride: int | tuple[int, ...]
) -> None:
    """The cell nearest to a token is the one that contains it."""
    tokens, coarse = sincos(32, grid), sincos(32, grid, stride)
    own = parent_cells(torch.arange(len(tokens)), grid, cells(grid, stride))
    assert torch.equal(torch.cdist(tokens, coarse).argmin(dim=1), own)


def test_rotary_scores_depend_on_relative_position_only() -> None:
    angles = rope_angles(16, (5, 5))
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    turned_q = rotate(q.expand(1, 1, 25, 16), angles)
    turned_k = rotate(k.expand(1, 1, 25, 16), angles)
    scores = (turned_q @ turned_k.transpose(-1, -2))[0, 0]
    assert scores[0, 6] == pytest.approx(float(scores[12, 18]), abs=1e-4)
    assert scores[0, 6] != pytest.approx(float(scores[0, 7]), abs=1e-4)


def test_pooling_is_two_dimensional() -> None:
    tokens = torch.arange(24.0).view(1, 24, 1)  # a 4 x 6 grid
    pooled = pool_cells(tokens, (4, 6), 2)
    assert pooled.shape == (1, 6, 1)
    assert pooled[0, 0, 0] == (0 + 1 + 6 + 7) / 4


@pytest.mark.parametrize(
    ("grid", "stride"),
    [
        ((12,), 1),
        ((12,), 4),
        ((4, 6), (1, 3)),
        ((4, 6), (4, 2)),
        ((4, 2, 6), (2, 1, 1)),
        ((4, 2, 6), (4, 2, 3)),
        ((4, 2, 6), 2),
    ],
)
def test_pooling_and_parents_equal_a_loop_over_cells(grid: tuple[int, ...], stride: int | tuple[int, ...]) -> None:
    side = (stride,) * len(grid) if isinstance(stride, int) else stride
    n = math.prod(grid)
    tokens = torch.randn(2, n, 3)
    coarse = tuple(g // s for g, s in zip(grid, side, strict=True))
    members: list[list[int]] = [[] for _ in range(math.prod(coarse))]
    for token, place in enumerate(itertools.product(*(range(g) for g in grid))):
        cell = 0
        for p, s, c in zip(place, side, coarse, strict=True):
            cell = cell * c + p // s
        members[cell].append(token)
    expected = torch.stack([tokens[:, inside].mean(dim=1) for inside in members], dim=1)
    assert torch.allclose(pool_cells(tokens, grid, stride), expected, atol=1e-6)
    parents = parent_cells(torch.arange(n), grid, coarse).tolist()
    assert parents == [next(i for i, inside in enumerate(members) if token in inside) for token in range(n)]


@pytest.mark.parametrize("rope", [False, True])
def test_a_block_restricted_to_the_last_tokens_gives_the_same_output(rope: bool) -> None:
    """Values and gradients of order 1 agree to 1e-5, that is, to rounding."""
    torch.manual_seed(0)
    block = Block(32, 2, layer_scale=0.5)
    angles = rope_angles(16, (3, 4)) if rope else None
    results = []
    for answer in (lambda x: block(x, angles)[:, 7:], lambda x: block(x, angles, first=7)):
        x = torch.randn(3, 12, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
        block.zero_grad()
        out = answer(x)
        out.square().sum().backward()
        results.append([out, x.grad, *(p.grad.clone() for p in block.parameters())])
    assert results[0][0].shape == (3, 5, 32)
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-4) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [7, 11])
def test_attention_equals_its_definition_in_value_and_gradient(dtype: torch.dtype, queries: int) -> None:
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, 3, n, 16, generator=generator, dtype=torch.float64) for n in (queries, 11, 11)]
    rounded = [x.to(dtype).requires_grad_() for x in exact]
    exact = [x.detach().double().requires_grad_() for x in rounded]
    q, k, v = exact
    expected = (q @ k.transpose(-1, -2) / 4).softmax(-1) @ v
    out = attend(*rounded)
    assert out.dtype == dtype
    weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    (expected * weight).sum().backward()
    (out * weight.to(dtype)).sum().backward()
    close = {"rtol": 0.0, "atol": 1e-5 if dtype == torch.float32 else 0.03}
    torch.testing.assert_close(out.double(), expected, **close)
    for ours, theirs in zip(rounded, exact, strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, **close)


def test_the_softmax_of_explicit_attention_is_computed_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    rounded = [torch.randn(4, 2, 64, 32, generator=generator).bfloat16().requires_grad_() for _ in range(3)]
    exact = [x.detach().double().requires_grad_() for x in rounded]
    weight = torch.randn(4, 2, 64, 32, generator=generator).bfloat16()

    def in_bf16(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(dim=-1) @ v

    truth = torch.autograd.grad((in_bf16(*exact) * weight.double()).sum(), exact)
    errors = []
    for attention in (attend_by_products, in_bf16):
        with torch.autocast("cpu", torch.bfloat16):
            out = attention(*rounded)
        assert out.dtype == torch.bfloat16
        found = torch.autograd.grad((out * weight).sum(), rounded)
        errors.append([float((g.double() - t).norm()) for g, t in zip(found, truth, strict=True)])
    # The gradient of a softmax is computed from its output, so rounding the output to bf16 adds to the error.
    (q, k, _), (rough_q, rough_k, _) = errors
    assert q < 0.97 * rough_q
    assert k < 0.97 * rough_k


def test_explicit_attention_is_used_only_for_short_sequences_in_bf16() -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for keys in (40, MOST_KEYS, MOST_KEYS + 1):
            q, k, v = (torch.randn(1, 2, n, 16, generator=generator).to(dtype) for n in (8, keys, keys))
            fused, written = torch.nn.functional.scaled_dot_product_attention(q, k, v), attend_by_products(q, k, v)
            assert not torch.equal(fused, written)
            expected = written if dtype == torch.bfloat16 and keys <= MOST_KEYS else fused
            assert torch.equal(attend(q, k, v), expected)
