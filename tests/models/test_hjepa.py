"""The architecture: target, predictor, levels."""

from __future__ import annotations

import pytest
import torch

from hjepa import create_hjepa, load_config
from hjepa.config import MaskingConfig
from hjepa.errors import UserError
from hjepa.masking import MaskSampler
from hjepa.models import HJEPA, JepaOutput, build_model, distinct_levels
from hjepa.models.cost import step_cost


def small(**keys: object) -> HJEPA:
    settings = {"embed_dim": 32, "depth": 4, "num_heads": 2, "seed": 0, "num_hierarchies": 3, **keys}
    return create_hjepa("vit_tiny_patch4_32", **settings)  # type: ignore[arg-type]


def masks_for(model: HJEPA, batch: int, **keys: object):  # type: ignore[no-untyped-def]
    strides = [level.stride for level in model.geometry.levels]
    return MaskSampler(MaskingConfig.model_validate(keys), model.geometry.grid, strides, seed=0)(0, batch)


FORMS = [
    {"hierarchy": "depths"},
    {"hierarchy": "pooled"},
    {"hierarchy": "both"},
    {"hierarchy": "both", "predictor_sharing": "separate"},
    {"hierarchy": "depths", "predictor_sharing": "separate"},
    {"hierarchy": "depths", "predictor_sharing": "separate", "coarse_to_fine": True},
    {"hierarchy": "both", "predictor_sharing": "separate", "coarse_to_fine": True},
    {"levels": [(2, 1), (4, 2), (4, 0)]},
    {"levels": [(2, 1), (4, 0)], "predictor_sharing": "separate", "coarse_to_fine": True},
    {"levels": [(1, 1), (2, 1), (3, 1), (4, 1), (4, 2), (4, 4)]},
    {"num_hierarchies": 1},
    {"hierarchy": "depths", "predict_visible": True},
    {"hierarchy": "both", "predict_visible": True},
    {
        "levels": [(2, 1), (4, 1), (4, 2)],
        "predictor_sharing": "separate",
        "coarse_to_fine": True,
        "predict_visible": True,
    },
]


@pytest.mark.parametrize("form", FORMS)
def test_shapes_of_every_hierarchy_form(form: dict[str, object]) -> None:
    model = small(**form)
    masks = masks_for(model, 4)
    output = model(torch.randn(4, 3, 32, 32), masks)
    assert isinstance(output, JepaOutput)
    for level in range(model.num_levels):
        visible = masks.context.shape[1] if model.predict_visible and model.geometry.levels[level].stride == 1 else 0
        expected = (4, masks.targets[level].shape[1] + visible, 32)
        assert output.predictions[level].shape == expected
        assert output.targets[level].shape == expected
        assert not output.targets[level].requires_grad
        assert output.pooled[level].shape == (4, 32)


@pytest.mark.parametrize("form", FORMS)
def test_every_trainable_weight_gets_a_gradient_and_the_target_none(form: dict[str, object]) -> None:
    model = small(**form)
    output = model(torch.randn(4, 3, 32, 32), masks_for(model, 4))
    assert isinstance(output, JepaOutput)
    sum(p.square().sum() for p in output.predictions).backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        if name.startswith("target_encoder"):
            assert parameter.grad is None
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, name


@pytest.mark.parametrize("form", FORMS)
def test_the_target_encoder_is_an_exact_copy_at_step_zero(form: dict[str, object]) -> None:
    model = small(**form)
    context, target = model.context_encoder.state_dict(), model.target_encoder.state_dict()
    assert context.keys() == target.keys()
    assert all(torch.equal(context[name], target[name]) for name in context)


def test_targets_are_layer_normalised_features_of_the_whole_image() -> None:
    model = small(hierarchy="both")
    images = torch.randn(2, 3, 32, 32)
    masks = masks_for(model, 2)
    output = model(images, masks)
    assert isinstance(output, JepaOutput)
    features = model(images)
    assert isinstance(features, list)
    for level, target in enumerate(output.targets):
        assert torch.allclose(target.mean(-1), torch.zeros(target.shape[:2]), atol=1e-4)
        assert torch.allclose(target.var(-1, unbiased=False), torch.ones(target.shape[:2]), atol=1e-2)
        expected = torch.nn.functional.layer_norm(features[level][1, masks.targets[level][1, 0]], (32,))
        assert torch.allclose(target[1, 0], expected, atol=1e-5)


def test_mask_sets_share_one_target_pass() -> None:
    model = small()
    images = torch.randn(2, 3, 32, 32)
    masks = masks_for(model, 2, sets_per_image=3)
    passes = []
    model.target_encoder.register_forward_hook(lambda _m, inputs, _o: passes.append(len(inputs[0])))
    output = model(images, masks)
    assert isinstance(output, JepaOutput)
    assert passes == [2]
    assert output.predictions[0].shape[0] == 6
    # Row 2 * k + b belongs to image b.
    features = model(images)
    expected = torch.nn.functional.layer_norm(features[0][1, masks.targets[0][5, 0]], (32,))
    assert torch.allclose(output.targets[0][5, 0], expected, atol=1e-5)


def test_a_prediction_depends_on_the_visible_tokens_and_on_the_queried_position() -> None:
    model = small().eval()
    images = torch.randn(2, 3, 32, 32)
    masks = masks_for(model, 2)
    output = model(images, masks)
    other = model(torch.randn(2, 3, 32, 32), masks)
    assert isinstance(output, JepaOutput)
    assert isinstance(other, JepaOutput)
    assert not torch.allclose(output.predictions[0], other.predictions[0], atol=1e-4)
    assert not torch.allclose(output.predictions[0][0, 0], output.predictions[0][0, 1], atol=1e-4)


def test_coarse_to_fine_conditions_each_cell_on_the_prediction_of_its_parent() -> None:
    model = small(hierarchy="both", predictor_sharing="separate", coarse_to_fine=True)
    masks = masks_for(model, 2, strategy="hierarchical", num_masks=2, mask_scale=(0.1, 0.1))
    columns = model.geometry.level_grid(0)[1]
    coarse_columns = model.geometry.level_grid(1)[1]
    # Use the index of a coarse cell as its prediction.
    predicted = masks.targets[1].unsqueeze(-1).expand(-1, -1, 32).float()
    around = model._around(predicted, 0, masks)
    for image in range(2):
        for place, cell in enumerate(masks.targets[0][image].tolist()):
            assert around[image, place, 0] == cell // columns // 2 * coarse_columns + cell % columns // 2
    images = torch.randn(2, 3, 32, 32)
    before = model(images, masks)
    with torch.no_grad():
        model.predictors[2].heads["2"].bias.add_(torch.randn(32))  # type: ignore[union-attr, operator]
    after = model(images, masks)
    for level in range(3):
        assert not torch.equal(before.predictions[level], after.predictions[level])
    apart = small(hierarchy="both", predictor_sharing="separate")
    before = apart(images, masks)
    with torch.no_grad():
        apart.predictors[2].heads["2"].bias.add_(1.0)  # type: ignore[union-attr, operator]
    assert torch.equal(before.predictions[0], apart(images, masks).predictions[0])


def test_predictions_of_visible_cells_use_their_tokens_and_never_their_targets() -> None:
    model, plain = small(predict_visible=True), small()
    plain.load_state_dict(model.state_dict())
    masks = masks_for(model, 3)
    images = torch.randn(3, 3, 32, 32)
    output, hidden_only = model(images, masks), plain(images, masks)
    asked, seen = masks.targets[0].shape[1], masks.context.shape[1]
    for level in range(3):
        # Hidden cells come first, and their predictions do not change.
        assert torch.allclose(output.predictions[level][:, :asked], hidden_only.predictions[level], atol=1e-5)
        assert torch.equal(output.targets[level][:, :asked], hidden_only.targets[level])
        whole = model.target_encoder(images)[model.geometry.levels[level].depth]
        expected = torch.nn.functional.layer_norm(whole[0][masks.context[0]], (32,))
        assert torch.allclose(output.targets[level][0, asked:], expected, atol=1e-5)
    # Changing hidden tokens changes the targets of visible cells, but no prediction.
    changed = images.clone()
    row, column = divmod(int(masks.targets[0][0, 0]), 8)
    changed[0, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1.0
    after = model(changed, masks)
    assert torch.equal(after.predictions[2], output.predictions[2])
    assert not torch.equal(after.targets[2][0, asked:], output.targets[2][0, asked:])
    assert output.predictions[2].shape[1] == asked + seen


def test_a_whole_image_level_predicts_the_average_feature() -> None:
    model = small(levels=[(2, 1), (4, 1), (4, 0)])
    masks = masks_for(model, 3)
    assert masks.groups == ((0, 1), (2,))
    assert torch.equal(masks.targets[2], torch.zeros(3, 1, dtype=torch.int64))
    plain = small(levels=[(2, 1), (4, 1)])
    # The masks of the other levels are the same as without this level.
    assert torch.equal(masks_for(plain, 3).context, masks.context)
    assert torch.equal(masks_for(plain, 3).targets[1], masks.targets[1])
    images = torch.randn(3, 3, 32, 32)
    output = model(images, masks)
    assert isinstance(output, JepaOutput)
    average = model.target_encoder(images)[4].mean(dim=1, keepdim=True)
    expected = torch.nn.functional.layer_norm(average, (32,))
    assert torch.allclose(output.targets[2], expected, atol=1e-5)
    assert distinct_levels(model.geometry) == (0, 1)


@pytest.mark.parametrize("levels", [[(2, 0), (4, 1)], [(4, 0)]])
def test_the_whole_image_is_the_last_of_several_levels(levels: list[tuple[int, int]]) -> None:
    with pytest.raises(UserError, match="only the last of several levels can average the whole image"):
        small(levels=levels)


def test_centred_targets_have_zero_mean_at_every_position() -> None:
    config = load_config({"model": {"encoder_type": "vit_tiny_patch4_32", "embed_dim": 32, "depth": 2, "num_heads": 2,
                                    "center_targets": True}})  # fmt: skip
    model = build_model(config)
    masks = masks_for(model, 64)
    output = model(torch.randn(64, 3, 32, 32), masks)
    assert isinstance(output, JepaOutput)
    for target, index in zip(output.targets, masks.targets, strict=True):
        # Mean per cell over the images in which it is a target: zero up to sampling error.
        cell = index == 0
        images = cell.any(dim=1)
        values = target[images][cell[images]]
        assert values.mean(dim=0).abs().max() < 4 / len(values) ** 0.5
    plain = build_model(load_config(config.model_dump(mode="json"), {"model.center_targets": False}))
    before = plain(torch.randn(64, 3, 32, 32), masks)
    cell = masks.targets[1] == 0
    assert before.targets[1][cell].mean(dim=0).abs().max() > 0.5


def test_an_additional_level_adds_a_head_and_a_norm() -> None:
    one, two = small(num_hierarchies=1), small(num_hierarchies=2)
    blocks = sum(p.numel() for p in one.predictors[0].blocks.parameters())
    assert sum(p.numel() for p in two.predictors[0].blocks.parameters()) == blocks
    extra = sum(p.numel() for p in two.parameters()) - sum(p.numel() for p in one.parameters())
    assert extra < 0.2 * sum(p.numel() for p in one.context_encoder.parameters())


def test_extract_features() -> None:
    model = small(hierarchy="depths")
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    together = model.extract_features(images)
    assert together.shape == (2, 96)
    assert torch.allclose(together[:, 32:64], model.extract_features(images, level=1))
    assert model.extract_features(images, level=-1, pool="none").shape == (2, 64, 32)
    model.extract_features(images, encoder="context").sum().backward()
    assert images.grad is not None
    assert model.context_encoder.patch_embed.proj.weight.grad is not None
    with pytest.raises(ValueError, match="0 to 2"):
        model.extract_features(images, level=3)
    with pytest.raises(ValueError, match="one level"):
        small(hierarchy="pooled").extract_features(images, pool="none")


def test_weights_are_a_function_of_the_seed() -> None:
    config = load_config("quickstart")
    a, b = build_model(config), build_model(config)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    other = build_model(load_config("quickstart", ["seed=1"]))
    assert not torch.equal(a.context_encoder.blocks[0].mlp.fc1.weight, other.context_encoder.blocks[0].mlp.fc1.weight)


def test_building_with_a_seed_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build_model(load_config("quickstart"))
    assert torch.rand(1) == expected


def test_errors_of_invalid_models_name_the_key() -> None:
    with pytest.raises(UserError, match=r"model\.num_heads"):
        create_hjepa("vit_tiny_patch4_32", embed_dim=40, num_heads=3)
    with pytest.raises(UserError, match=r"predictor\.sharing=separate"):
        create_hjepa("vit_tiny_patch4_32", coarse_to_fine=True)


@pytest.mark.parametrize(
    "form",
    [
        {"hierarchy": "both"},
        {"hierarchy": "depths", "predictor": {"sharing": "separate"}},
        {"hierarchy": "both", "predictor": {"sharing": "separate", "coarse_to_fine": True}},
        {"levels": [{"depth": 2}, {"depth": 4, "stride": 0}]},
        {"hierarchy": "depths", "predictor": {"predict_visible": True}},
        {"hierarchy": "both", "predictor": {"sharing": "separate", "predict_visible": True}},
    ],
)
def test_flop_formula_equals_pytorchs_count(form: dict[str, object]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    keys = {"embed_dim": 32, "depth": 4, "num_heads": 2, "num_hierarchies": 2}
    config = load_config({"model": {"encoder_type": "vit_tiny_patch4_32", **keys, **form}})
    model = build_model(config)
    masks = masks_for(model, 2)
    counts = [t.shape[1] for t in masks.targets]
    cost = step_cost(config.model, model.geometry, 3, masks.context.shape[1], tuple(counts), masks.groups)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, 32, 32), masks)
    forward = cost.target + cost.context / 3 + cost.predictor / 3
    assert counter.get_total_flops() == pytest.approx(2 * forward, rel=0.02)


def test_learned_weights_are_parameters_that_start_without_effect() -> None:
    config = {"model": {"encoder_type": "vit_tiny_patch4_32", "embed_dim": 32, "depth": 2, "num_heads": 2}}
    model = build_model(load_config(config, {"loss.hierarchy_weighting": "learned"}))
    output = model(torch.randn(2, 3, 32, 32), masks_for(model, 2))
    assert isinstance(output, JepaOutput)
    assert output.log_scales is not None
    assert output.log_scales.tolist() == [0.0, 0.0]
    assert output.log_scales.requires_grad
    fixed = build_model(load_config(config))
    assert set(model.state_dict()) - set(fixed.state_dict()) == {"loss_scales"}


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"levels": [(2, -1)]}, "model.levels.0.stride: invalid value -1"),
        ({"levels": [(2, (0, 1, 1))]}, "model.levels.0.stride: invalid value (0, 1, 1)"),
        ({"predictor_embed_dim": 6}, "model.predictor.embed_dim: invalid value 6"),
        ({"predictor_sharing": "share"}, "model.predictor.sharing: invalid value 'share'"),
    ],
)
def test_values_out_of_bounds_are_one_line_errors(arguments: dict[str, object], key: str) -> None:
    with pytest.raises(UserError) as error:
        small(**arguments)
    assert str(error.value).startswith(key)
    assert "\n" not in str(error.value)
