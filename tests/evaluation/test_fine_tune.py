"""Fine-tuning changes the weights it should, and never those of the run."""

from dataclasses import replace

import pytest
import torch

from hjepa.config.protocols import FineTuneConfig, SupervisedConfig
from hjepa.data import build_splits
from hjepa.evaluation.prepare import view_of
from hjepa.evaluation.tuning.classifier import Classifier, layer_of
from hjepa.evaluation.tuning.fine_tune import Labelled, changed_tensors, fine_tune
from hjepa.evaluation.tuning.supervised import train_supervised
from hjepa.evaluation.tuning.training import Recipe, learning_rate_factor, parameter_groups, train_classifier
from hjepa.runs.load import load_run, untrained_encoder


@pytest.fixture(scope="module")
def run(run_dir):
    return load_run(run_dir, device="cpu")


@pytest.fixture(scope="module")
def splits(run):
    return build_splits(run.config.data, run.config.seed)


def weights(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def trained(run, splits, recipe: Recipe, blocks: int | None = None, seed: int = 0) -> Classifier:
    model = Classifier(run.encoder, 6, seed)
    if blocks is not None:
        model.train_last_blocks(blocks)
    train_classifier(model, splits.train, run.config.data, view_of(run, run.config), recipe, seed=seed)
    return model


RECIPE = Recipe(steps=4, batch_size=16, lr=1e-2)


def test_full_fine_tuning_changes_every_tensor_and_not_the_run(run, splits):
    before = weights(run.encoder)
    # The run's own encoder is an average of weights, and has no gradients.
    assert not any(parameter.requires_grad for parameter in run.encoder.parameters())
    model = trained(run, splits, RECIPE)
    assert all(torch.equal(value, before[name]) for name, value in run.encoder.state_dict().items())
    assert not any(parameter.requires_grad for parameter in run.encoder.parameters())
    changed = changed_tensors(run.encoder, model.encoder)
    assert changed["changed"] == changed["tensors"] == len(list(run.encoder.parameters()))
    assert not model.training


def test_the_last_blocks_are_the_only_ones_that_change(run, splits):
    depth = run.encoder.geometry.depth
    model = trained(run, splits, RECIPE, blocks=1)
    for (name, old), new in zip(run.encoder.named_parameters(), model.encoder.parameters(), strict=True):
        assert torch.equal(old, new) == (layer_of(name, depth) < depth), name
    assert any(layer_of(name, depth) < depth for name, _ in run.encoder.named_parameters())


def test_training_repeats_and_leaves_the_generator_alone(run, splits):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again = trained(run, splits, RECIPE), trained(run, splits, RECIPE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    other = trained(run, splits, RECIPE, seed=1)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_rates_fall_with_the_distance_from_the_head(run):
    model = Classifier(run.encoder, 6, 0)
    groups = parameter_groups(model, replace(RECIPE, lr=1.0, layer_decay=0.5, weight_decay=0.1))
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(rate) == len(list(model.parameters()))
    encoder = model.encoder
    assert rate[id(model.head.weight)] == (1.0, 0.1)
    assert rate[id(encoder.blocks[1].attn.qkv.weight)] == (1.0, 0.1)
    assert rate[id(encoder.blocks[0].attn.qkv.weight)] == (0.5, 0.1)
    assert rate[id(encoder.patch_embed.proj.weight)] == (0.25, 0.1)
    assert rate[id(encoder.blocks[0].norm1.weight)] == (0.5, 0.0)
    assert rate[id(encoder.level_norms["1"].weight)] == (0.5, 0.0)
    assert rate[id(encoder.norm.weight)] == (1.0, 0.0)


def test_the_first_step_is_a_small_one_and_the_last_almost_none():
    factors = [learning_rate_factor(step, 100) for step in range(100)]
    assert factors[0] < 0.1
    assert factors[:10] == sorted(factors[:10])
    assert max(factors) == pytest.approx(1)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.01


def test_trained_and_untrained_have_the_same_budget(run, splits):
    untrained = untrained_encoder(run)
    before = weights(untrained)
    rows = splits.fit_rows[:48]
    result = fine_tune(
        {"trained": run.encoder, "untrained": untrained},
        Labelled(splits.train, rows),
        {"validation": Labelled(splits.validation, torch.arange(10))},
        num_classes=6,
        settings=FineTuneConfig(epochs=2, batch_size=16, blocks=1),
        data=run.config.data,
        view=view_of(run, run.config),
        seed=0,
    )
    assert (result["images"], result["steps"]) == (48, 6)
    total = len(before)
    assert result["full"]["changed"] == {
        name: {"changed": total, "tensors": total} for name in ("trained", "untrained")
    }
    last = result["last_blocks"]["changed"]["trained"]
    assert 0 < last["changed"] < last["tensors"]
    for variant in ("full", "last_blocks"):
        assert all(0 <= result[variant]["validation"][name] <= 1 for name in ("trained", "untrained"))
    assert all(torch.equal(value, before[name]) for name, value in untrained.state_dict().items())


def test_fine_tuning_learns(run, splits):
    # Sixty images of two classes are learned by heart, which a classifier that does not train cannot do.
    rows = (splits.train.labels < 2).nonzero().flatten()[:60]
    data = run.config.data.model_copy(
        update={"augmentation": run.config.data.augmentation.model_copy(update={"random_crop": False})}
    )
    result = fine_tune(
        {"trained": run.encoder},
        Labelled(splits.train, rows),
        {"train": Labelled(splits.train, rows)},
        num_classes=2,
        settings=FineTuneConfig(epochs=50, batch_size=20, lr=5e-3, blocks=0),
        data=data,
        view=view_of(run, run.config),
        seed=0,
    )
    assert result["full"]["train"]["trained"] > 0.8
    assert "last_blocks" not in result


def test_the_supervised_control_sees_the_budget_it_is_given(run, splits):
    untrained = untrained_encoder(run)
    before = weights(untrained)
    made = {}
    for share in (0.5, 1.0):
        encoder = train_supervised(
            untrained,
            splits.train,
            splits.fit_rows,
            images_seen=64,
            num_classes=6,
            settings=SupervisedConfig(share=share),
            batch_size=16,
            data=run.config.data,
            view=view_of(run, run.config),
            seed=0,
        )
        assert not encoder.training
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        assert changed_tensors(untrained, encoder)["changed"] > 0
        made[share] = weights(encoder)
    assert any(not torch.equal(made[0.5][name], made[1.0][name]) for name in before)
    assert all(torch.equal(value, before[name]) for name, value in untrained.state_dict().items())
