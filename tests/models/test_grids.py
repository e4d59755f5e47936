"""H-JEPA on signals and clips: masks, model and objective with strides per axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hjepa import create_hjepa
from hjepa.config import MaskingConfig, ModelConfig, load_config
from hjepa.masking import MaskSampler
from hjepa.methods.moving_average import MovingAverage
from hjepa.models import HJEPA, JepaOutput
from hjepa.models.cost import step_cost
from hjepa.objectives.objective import Objective


def signals(count: int, seed: int) -> Tensor:
    """Sine and cosine of random frequency and phase, [B, 2, 64]."""
    generator = torch.Generator().manual_seed(seed)
    frequency, phase = torch.rand(2, count, 1, 1, generator=generator)
    angle = 2 * math.pi * ((1 + frequency) * torch.arange(64) / 64 + phase)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def clips(count: int, seed: int) -> Tensor:
    """A moving bright spot, [B, 1, 4, 16, 16]."""
    generator = torch.Generator().manual_seed(seed)
    start, speed = 4 + 8 * torch.rand(count, 2, generator=generator), 2 * torch.rand(count, 2, generator=generator) - 1
    centre = start[:, None] + speed[:, None] * torch.arange(4)[None, :, None]  # [B, T, 2]
    pixel = torch.arange(16.0)
    down = (pixel - centre[..., :1]).square()[..., :, None]
    across = (pixel - centre[..., 1:]).square()[..., None, :]
    return torch.exp(-(down + across) / 8)[:, None] * 4 - 0.5


SIGNAL: dict[str, Any] = {"image_size": (64,), "patch_size": 4, "channels": 2}
CLIP: dict[str, Any] = {"image_size": (4, 16, 16), "patch_size": (1, 4, 4), "channels": 1}
TOP_DOWN: dict[str, Any] = {"predictor_sharing": "separate", "coarse_to_fine": True}
FORMS: list[tuple[Callable[[int, int], Tensor], dict[str, Any], str]] = [
    (signals, SIGNAL | {"levels": [(1, 1), (2, 1)]}, "multiblock"),
    (signals, SIGNAL | {"levels": [(1, 1), (2, 2), (2, 0)], "position": "rope"}, "multiblock"),
    (signals, SIGNAL | {"levels": [(1, 1), (2, 2)]} | TOP_DOWN, "hierarchical"),
    (clips, CLIP | {"levels": [(1, 1), (2, (2, 1, 1)), (2, (4, 1, 1))]}, "multiblock"),
    (clips, CLIP | {"levels": [(1, 1), (2, (2, 1, 1)), (2, (4, 2, 2))], "position": "rope"} | TOP_DOWN, "multiblock"),
    (clips, CLIP | {"levels": [(1, 1), (2, (2, 1, 1))]} | TOP_DOWN, "hierarchical"),
    (clips, CLIP | {"levels": [(1, 1), (2, (1, 4, 4))], "predict_visible": True}, "multiblock"),
]


def build(form: dict[str, Any], strategy: str) -> tuple[HJEPA, MaskSampler]:
    model = create_hjepa("vit_tiny_patch4_32", **{"embed_dim": 24, "depth": 2, "num_heads": 2, "seed": 0, **form})
    config = MaskingConfig(strategy=strategy, num_masks=2, mask_scale=(0.2, 0.25), level_growth=1.3)  # type: ignore[arg-type]
    strides = [level.stride for level in model.geometry.levels]
    return model, MaskSampler(config, model.geometry.grid, strides, seed=0)


@pytest.mark.parametrize(("data", "form", "strategy"), FORMS)
def test_training_lowers_the_loss(data: Callable[[int, int], Tensor], form: dict[str, Any], strategy: str) -> None:
    """Each level's loss on held-out inputs and masks falls, with targets from the initial target encoder.

    With the current target encoder a collapse would lower the loss as well.
    """
    model, sampler = build(form, strategy)
    objective = Objective("smoothl1", [1.0] * model.num_levels)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    follow = MovingAverage(model.context_encoder, model.target_encoder)
    held_out, masks = data(64, 1), sampler(1000, 64)

    def losses(answers: list[Tensor]) -> Tensor:
        with torch.no_grad():
            output = model(held_out, masks)
        assert isinstance(output, JepaOutput)
        return objective(output.predictions, answers, output.pooled).levels

    with torch.no_grad():
        start = model(held_out, masks).targets
    before = losses(start)
    for step in range(60 if data is signals else 30):
        output = model(data(32, 100 + step), sampler(step, 32))
        assert isinstance(output, JepaOutput)
        optimizer.zero_grad()
        objective(output.predictions, output.targets, output.pooled, step=step).total.backward()
        for name, parameter in model.named_parameters():
            assert not parameter.requires_grad or parameter.grad is not None, name
        optimizer.step()
        follow(0.999)
    after = losses(start)
    assert (after < 0.8 * before).all(), (before, after)


@pytest.mark.parametrize(("data", "form", "strategy"), FORMS)
def test_targets_are_the_normalised_mean_of_the_tokens_of_a_cell(
    data: Callable[[int, int], Tensor], form: dict[str, Any], strategy: str
) -> None:
    model, sampler = build(form, strategy)
    inputs, masks = data(3, 0), sampler(0, 3)
    output = model(inputs, masks)
    assert isinstance(output, JepaOutput)
    grid = model.geometry.grid
    for number, level in enumerate(model.geometry.levels):
        features = model.target_encoder(inputs)[level.depth].view(3, *grid, -1)
        coarse = model.geometry.level_grid(number)
        cell = int(masks.targets[number][1, -1])
        inside = features[1]
        for axis in reversed(range(len(grid))):
            side, (cell, place) = grid[axis] // coarse[axis], divmod(cell, coarse[axis])
            inside = inside.narrow(axis, place * side, side)
        expected = torch.nn.functional.layer_norm(inside.flatten(0, -2).mean(dim=0), (24,))
        asked = masks.targets[number].shape[1]
        assert torch.allclose(output.targets[number][1, asked - 1], expected, atol=1e-4)


@pytest.mark.parametrize("form", [SIGNAL | {"levels": [(1, 1), (2, 4)]}, CLIP | {"levels": [(1, 1), (2, (2, 1, 1))]}])
def test_flop_formula_equals_pytorchs_count(form: dict[str, Any]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, sampler = build(form, "multiblock")
    masks = sampler(0, 2)
    predictor = {"depth": 2, "mlp_ratio": 4.0}
    config = ModelConfig.model_validate({"embed_dim": 24, "depth": 2, "num_heads": 2, "predictor": predictor})
    counts = tuple(t.shape[1] for t in masks.targets)
    channels = form["channels"]
    cost = step_cost(config, model.geometry, channels, masks.context.shape[1], counts, masks.groups)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, channels, *model.geometry.image_size), masks)
    forward = cost.target + cost.context / 3 + cost.predictor / 3
    assert counter.get_total_flops() == pytest.approx(2 * forward, rel=0.02)


def test_whole_inputs_are_encoded_per_level_and_features_are_concatenated() -> None:
    model, _ = build(CLIP | {"levels": [(1, 1), (2, (4, 1, 1))]}, "multiblock")
    inputs = clips(2, 0)
    levels = model(inputs)
    assert isinstance(levels, list)
    assert [tuple(level.shape) for level in levels] == [(2, 64, 24), (2, 16, 24)]
    assert model.extract_features(inputs).shape == (2, 48)


def test_strides_as_a_number_or_as_a_list_give_the_same_weights() -> None:
    plain, listed = (
        create_hjepa("vit_tiny_patch4_32", embed_dim=24, num_heads=2, levels=[(1, 1), (2, stride)], seed=0)
        for stride in (2, (2, 2))
    )
    assert plain.state_dict().keys() == listed.state_dict().keys()
    assert "predictors.0.mask_tokens.2" in plain.state_dict()
    assert plain.context_encoder.patch_embed.proj.weight.shape == (24, 3, 4, 4)


def test_an_image_run_may_pool_rows_and_columns_differently() -> None:
    config = load_config("quickstart", ["model.levels=[{depth: 2}, {depth: 6, stride: [1, 2]}]"])
    sampler = MaskSampler(config.masking, config.geometry().grid, [level.stride for level in config.geometry().levels])
    assert sampler.counts.targets[0] == 2 * sampler.counts.targets[1]
