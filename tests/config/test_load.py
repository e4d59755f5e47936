"""Loading configurations, and the messages for invalid ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hjepa.config import Config, all_keys, batch_advice, dump_config, load_config, preset_text, presets
from hjepa.config.reference import json_schema, markdown, rows
from hjepa.errors import UserError

CPU_CIFAR10 = Path(__file__).parents[2] / "configs" / "cpu_cifar10.yaml"


def message(overrides: list[str], source: object = "quickstart") -> str:
    with pytest.raises(UserError) as error:
        load_config(source, overrides)  # type: ignore[arg-type]
    return str(error.value)


def test_cpu_cifar10_yaml_loads_unchanged() -> None:
    config = load_config(CPU_CIFAR10)
    tree = yaml.safe_load(CPU_CIFAR10.read_text())
    assert config.model.ema.momentum_warmup_epochs == tree["model"]["ema"]["momentum_warmup_epochs"]
    assert config.loss.hierarchy_weights == tree["loss"]["hierarchy_weights"]
    geometry = config.geometry()
    assert geometry.grid == (14, 14)
    assert len(geometry.levels) == tree["model"]["num_hierarchies"]


@pytest.mark.parametrize(
    "tree",
    [
        {"model": {"encoder_type": "vit_tiny_patch16_224", "embed_dim": 128}, "data": {"image_size": 160}},
        {"model": {"encoder_type": "vit_small_patch16_224", "num_hierarchies": 3}},
        {"loss": {"variance_loss_weight": 0.1, "covariance_loss_weight": 0.05}},
        {"training": {"lr_scaling": "linear"}},
        {"distributed": {"enabled": True, "backend": "nccl"}},
    ],
)
def test_other_common_keys_load(tree: dict[str, object]) -> None:
    load_config(tree)


def test_a_width_without_heads_gets_one_head_per_64() -> None:
    geometry = load_config({"model": {"embed_dim": 128}}).geometry()
    assert geometry.num_heads == 2
    assert load_config({"model": {"encoder_type": "vit_base_patch16_224"}}).geometry().num_heads == 12


def test_image_size_overrides_the_encoder_name_and_may_be_rectangular() -> None:
    geometry = load_config({"data": {"image_size": [64, 96]}}).geometry()
    assert geometry.grid == (4, 6)


@pytest.mark.parametrize("name", presets())
def test_presets_load_and_survive_a_round_trip(name: str) -> None:
    config = load_config(name)
    assert load_config(yaml.safe_load(dump_config(config))) == config
    assert preset_text(name).startswith("#"), "the first line of a preset says what it is for"


def test_overrides_replace_values_of_the_file_and_are_parsed_as_yaml() -> None:
    config = load_config(
        "quickstart", ["training.lr=1e-4", "model.levels=[{depth: 2}, {depth: 6, stride: 2}]", "data.mean=null"]
    )
    assert config.training.lr == 1e-4
    assert [level.stride for level in config.geometry().levels] == [1, 2]


@pytest.mark.parametrize(
    ("override", "path", "hint"),
    [
        ("training.lrr=1", "training.lrr", "did you mean training.lr?"),
        ("trainng.lr=1", "trainng", "did you mean training?"),
        ("log_frequency=3", "log_frequency", "did you mean logging.log_frequency?"),
        ("training.lr=-1", "training.lr", "greater than 0"),
        ("training.lr=fast", "training.lr", "valid number"),
        ("training.epochs=true", "training.epochs", "number"),
        ("training.epochs=0", "training.epochs", "greater than 0"),
        ("data.batch_size=1.5", "data.batch_size", "integer"),
        ("data.dataset=cifr10", "data.dataset", "did you mean cifar10?"),
        ("device=tpu", "device", "cuda"),
        ("model=3", "model", "section"),
        ("model.encoder_type=vit_tiny", "model.encoder_type", "vit_tiny_patch16_224"),
        ("model.num_heads=5", "model.num_heads", "use 4"),
        ("model.predictor.num_heads=5", "model.predictor.num_heads", "use 4"),
        ("model.levels=[{depth: 3, stride: 5}]", "model.levels.0.stride", "use one of 1, 2, 4, 8"),
        ("model.levels=[{depth: 9}]", "model.levels.0.depth", "use 1 to 6"),
        ("model.levels=[{depth: 6}, {depth: 3}]", "model.levels.1", "finest"),
        ("model.levels=[{depth: 6, stride: 2}, {depth: 6, stride: 2}]", "model.levels.1", "change one"),
        ("model.levels=[" + ", ".join(["{depth: 6}"] * 9) + "]", "model.levels", "at most 8"),
        ("model.num_hierarchies=5", "model.num_hierarchies", "less than or equal to 4"),
        ("masking.mask_scale=[0.5, 0.2]", "masking.mask_scale", "above the second"),
        ("data.image_size=33", "data.image_size", "use 32"),
        ("data.image_size=[32, 30]", "data.image_size", "use [32, 32]"),
        ("loss.hierarchy_weights=[1]", "loss.hierarchy_weights", "give 3"),
        ("loss.hierarchy_weights=[0, 0, 0]", "loss.hierarchy_weights", "raise at least one"),
        ("training.min_lr=1", "training.min_lr", "training.lr"),
        ("data.mean=[0.5]", "data.mean", "data.std"),
        ("training", "training", "section.key=value"),
        ("seed=[1", "seed", "YAML"),
        ("model.levels=[{depth:1}]", "model.levels.0.depth", "missing space after the colon; write `depth: 1`"),
        ("model.levels=[depth:1]", "model.levels.0", "missing space after the colon, write `depth: 1`"),
        ("data.image_size=[8, 8, 8]", "data.image_size", "[8, 8, 8]: must be a valid integer or a list of 2 numbers"),
        ("data.image_size=[8]", "data.image_size", "[8]: must be a valid integer or a list of 2 numbers"),
        ("data.image_size=[]", "data.image_size", "[]: must be a valid integer or a list of 2 numbers"),
        ("data.image_size=[8, a]", "data.image_size", "[8, 'a']: must be a valid integer or a list of numbers"),
        ("masking.mask_scale=[0.1]", "masking.mask_scale", "[0.1]: must be a list of 2 numbers"),
        ("masking.mask_scale=[0.1, 0.2, 0.3]", "masking.mask_scale", "must be a list of 2 numbers"),
        ("method=", "method", "no value given: must be a valid string; give one, or leave the key out"),
        ("model.patch_size=4", "model.patch_size", "unknown key; the patch size is part of model.encoder_type"),
        ("model.ema={momentum:0.9}", "model.ema.momentum", "write `momentum: 0.9`"),
    ],
)
def test_an_error_is_one_line_with_the_key_and_a_remedy(override: str, path: str, hint: str) -> None:
    text = message([override])
    assert "\n" not in text
    assert path in text.split(":")[0] or text.startswith(f"'{path}")
    assert hint in text


def test_only_values_that_come_from_the_file_are_said_to(tmp_path: Path) -> None:
    for given in (
        ["training.epochs=-1"],
        ["training.min_lr=1"],
        ["model.ema.momentum=2"],
        ["model={ema: {momentum: 2}}"],
    ):
        assert "(in " not in message(given)
    file = tmp_path / "own.yaml"
    file.write_text("training:\n  epochs: -1\nmodel:\n  depth: 0\n")
    assert message([], file).count(f"(in {file})") == 2
    first, second = message(["training.epochs=-2"], file).splitlines()
    assert first.startswith("model.depth")
    assert first.endswith(f"(in {file})")
    assert second.startswith("training.epochs: invalid value -2")
    assert "(in " not in second


def test_the_error_for_pooled_levels_that_do_not_nest_says_how_many_fit() -> None:
    text = message(["model.num_hierarchies=4", "model.hierarchy=pooled", "data.image_size=40"])
    assert "10x10" in text
    assert "at most 3" in text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("training:\n  lr:0.1\n", None),
        ("training:\n  lr:0.1\n  epochs: 3\n", 2),
        ("training:\n  lr: 0.1\n  epochs:3\n", 3),
        ("training:\n  epochs:3\n  lr:0.1\n", None),
        ("seed:3\ntraining:\n  epochs: 3\n", 1),
        ("model:\n  levels:\n    - depth:3\n    - depth: 6\n", None),
    ],
)
def test_a_missing_space_after_a_colon_is_named(tmp_path: Path, text: str, line: int | None) -> None:
    file = tmp_path / "slip.yaml"
    file.write_text(text)
    said = message([], file)
    assert "missing space after the colon" in said
    assert line is None or f"line {line}:" in said
    assert "\n" not in said


def test_file_names_that_are_not_valid_utf8_are_refused() -> None:
    for said in (message(["data.data_path=p\udce9"]), message({"data.data_path": "p\udce9"})):  # type: ignore[arg-type]
        assert "is not valid UTF-8" in said


def test_a_preset_with_another_batch_size_gets_advice() -> None:
    def advice(*overrides: str) -> str | None:
        return batch_advice("cifar10_cpu", load_config("cifar10_cpu", overrides))

    rate = load_config("cifar10_cpu").training.lr
    text = advice("data.batch_size=32")
    assert text is not None
    assert f"training.lr={rate / 2:.3g}" in text
    assert advice() is None
    assert advice("data.batch_size=32", "training.accumulation_steps=4") is None
    assert advice("data.batch_size=32", "training.lr=1e-3") is None
    assert advice("data.batch_size=32", "training.lr_scaling=sqrt") is None
    assert batch_advice({}, load_config()) is None


def test_several_errors_are_one_line_each() -> None:
    text = message(["training.lrr=1", "data.batch_size=0"])
    assert len(text.splitlines()) == 2


def test_loading_a_preset_does_not_shadow_the_function_presets() -> None:
    import hjepa.config

    hjepa.config.load_config("quickstart")
    assert callable(hjepa.config.presets)
    assert "quickstart" in hjepa.config.presets()


def test_the_error_for_a_missing_file_lists_presets(tmp_path: Path) -> None:
    assert "did you mean quickstart?" in message([], "quickstrt")
    assert "YAML" in message([], str(tmp_path / "none.yaml"))


def test_a_duplicate_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("training:\n  lr: 0.001\n  epochs: 2\n  lr: 0.002\n")
    assert "twice.yaml, line 4: not valid YAML (duplicate key 'lr')" in message([], str(file))


def test_the_error_for_invalid_yaml_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("model:\n  depth: [1\n")
    assert "line" in message([], file)
    file.write_text("- 1\n- 2\n")
    assert "sections" in message([], file)


def test_the_reference_names_every_key_with_a_description() -> None:
    table = markdown()
    described = {key: text for key, _, _, text in rows()}
    assert set(described) == set(all_keys())
    assert all(described.values())
    assert all(f"`{key}`" in table for key in all_keys())


def test_the_schema_describes_the_tree() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(Config.model_fields)
    assert schema["additionalProperties"] is False


def test_removed_keys_of_older_configurations_are_dropped_with_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("data:\n  worker_timeout: 300.0\n  worker_restarts: 3\n")
    assert load_config(file) == load_config()
    assert not caplog.records
    assert load_config(file, ["data.worker_restarts=5"]) == load_config()
    file.write_text("data:\n  worker_restarts: 5\n")
    assert load_config(file) == load_config()
    given, stored = (record.message for record in caplog.records)
    assert given.startswith("data.worker_restarts no longer has any effect: ")
    assert stored.startswith(f"data.worker_restarts no longer has any effect (in {file}): ")
    assert "\n" not in given + stored
