"""Every configuration key has an observable effect on a real run.

Each case trains the tiny configuration twice, without and with the key changed, and compares what can be observed of
the two runs: weights, records, files, the log. Keys that cannot be tested this way have their own test below, named in
`ELSEWHERE`. A key in neither table fails `test_every_key_has_a_test`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.conftest import TINY, Observed, Run, run_tiny, tiny_config

from hjepa.config import all_keys
from hjepa.data import build_splits
from hjepa.errors import UserError
from hjepa.training import load_run


@dataclass
class Case:
    """The changed value of a key, what to compare, and settings under which the key has an effect."""

    value: Any
    see: Callable[[Observed], Any]
    base: dict[str, Any] = field(default_factory=dict)


def weights(run: Observed) -> bytes:
    return run.weights.numpy().tobytes()


def shape(name: str) -> Callable[[Observed], Any]:
    def see(run: Observed) -> Any:
        value = run.state["model_state_dict"].get(name)
        return None if value is None else tuple(value.shape)

    return see


def record(name: str) -> Callable[[Observed], Any]:
    return lambda run: [r.get(name) for r in run.records]


def names(run: Observed) -> tuple[str, ...]:
    return tuple(run.state["model_state_dict"])


def messages(run: Observed) -> list[str]:
    """Log lines without date, time and level."""
    return [line.split(" ", 3)[-1] for line in run.log.splitlines()]


def tokens(run: Observed) -> str:
    return next(line for line in messages(run) if "tokens seen" in line)


def first_line(run: Observed) -> str:
    return next(line for line in messages(run) if " images; encoder" in line)


def environment(name: str) -> Callable[[Observed], Any]:
    return lambda run: json.loads((run.folder / "environment.json").read_text())[name]


def withheld(run: Observed) -> int:
    validation = build_splits(load_run(run.folder, device="cpu").config.data).validation
    return 0 if validation is None else len(validation)


def periodic(run: Observed) -> set[str]:
    return {f for f in run.files() if "checkpoint_" in f}


def signs(run: Observed) -> list[str]:
    return sorted({sign["figure"] for e in run.evals for sign in e["signs"]})


def saved_on_red(run: Observed) -> set[str]:
    return {f for f in run.files() if "_red_" in f}


def stop_step(run: Observed) -> int:
    return run.outcome.step


def eval_steps(run: Observed) -> list[int]:
    return [e["step"] for e in run.evals]


CROP = {"data.augmentation.random_crop": True}
VARIANCE = {"loss.variance_loss_weight": 0.1}
INFONCE = {"loss.type": "infonce", "loss.candidate_images": 8, "loss.candidate_cells": 4}
RATE = record("lr")
STOPS = {"training.epochs": 4, "training.early_stopping.monitor": ["health"], "training.early_stopping.patience": 1}
# Every evaluation is red.
RED = {"health.cosine": [100.0, 100.0], "health.chance": [100.0, 100.0]}

CASES: dict[str, Case] = {
    "model.encoder_type": Case("vit_tiny_patch2_16", shape("context_encoder.patch_embed.proj.weight")),
    "model.embed_dim": Case(48, shape("context_encoder.norm.weight")),
    "model.depth": Case(3, names),
    "model.num_heads": Case(1, weights),
    "model.mlp_ratio": Case(2.0, shape("context_encoder.blocks.0.mlp.fc1.weight")),
    "model.position": Case("rope", weights),
    "model.layer_scale": Case(0.1, names),
    "model.drop_path": Case(0.5, weights),
    "model.num_hierarchies": Case(1, record("loss/level_1")),
    "model.hierarchy": Case("pooled", names),
    "model.levels": Case([{"depth": 1}, {"depth": 2, "stride": 2}], tokens),
    "model.center_targets": Case(True, record("loss/level_0")),
    "model.predictor.depth": Case(2, names),
    "model.predictor.embed_dim": Case(24, shape("predictors.0.embed.weight")),
    "model.predictor.num_heads": Case(2, weights),
    "model.predictor.mlp_ratio": Case(2.0, shape("predictors.0.blocks.0.mlp.fc1.weight")),
    "model.predictor.sharing": Case("separate", names),
    "model.predictor.predict_visible": Case(True, tokens),
    "model.predictor.coarse_to_fine": Case(True, weights, {"model.predictor.sharing": "separate"}),
    "model.ema.momentum": Case(0.5, record("momentum")),
    "model.ema.momentum_end": Case(0.997, record("momentum")),
    "model.ema.momentum_warmup_epochs": Case(1.0, record("momentum")),
    "data.dataset": Case("digits", first_line),
    "data.image_size": Case(24, tokens),
    "data.channels": Case(1, shape("context_encoder.patch_embed.proj.weight")),
    "data.batch_size": Case(8, lambda run: run.outcome.step),
    "data.subset": Case(64, first_line),
    "data.test_fraction": Case(
        0.5, first_line, {"data.dataset": "digits", "data.subset": None, "training.max_steps": 1}
    ),
    "data.validation_fraction": Case(0.5, withheld),
    "data.mean": Case([0.1, 0.1, 0.1], weights, {"data.mean": [0.5] * 3, "data.std": [0.2] * 3}),
    "data.std": Case([0.3, 0.3, 0.3], weights, {"data.mean": [0.5] * 3, "data.std": [0.2] * 3}),
    "data.augmentation.random_crop": Case(False, weights),
    "data.augmentation.crop_scale": Case([0.9, 1.0], weights, CROP),
    "data.augmentation.crop_ratio": Case([1.0, 1.0], weights, CROP),
    "data.augmentation.horizontal_flip": Case(False, weights),
    "data.augmentation.color_jitter": Case(0.4, weights),
    "data.augmentation.grayscale": Case(0.5, weights),
    "data.augmentation.blur": Case(0.5, weights),
    "data.augmentation.solarize": Case(0.5, weights),
    "masking.strategy": Case("random", weights),
    "masking.num_masks": Case(1, tokens),
    "masking.mask_scale": Case([0.3, 0.4], tokens),
    "masking.aspect_ratio": Case([0.3, 3.0], weights, {"data.image_size": 32}),
    "masking.num_context_masks": Case(3, tokens, {"masking.context_scale": [0.2, 0.3]}),
    "masking.context_scale": Case([0.3, 0.4], tokens),
    "masking.sets_per_image": Case(2, weights),
    "masking.level_growth": Case(3.0, tokens, {"masking.strategy": "hierarchical", "masking.mask_scale": [0.1, 0.15]}),
    "training.epochs": Case(3, lambda run: run.outcome.step),
    "training.max_steps": Case(3, lambda run: run.outcome.step),
    "training.warmup_epochs": Case(1.0, RATE),
    "training.warmup_lr": Case(1e-4, RATE),
    "training.lr": Case(5e-4, RATE),
    "training.min_lr": Case(1e-4, RATE),
    "training.lr_schedule": Case("linear", RATE),
    "training.cooldown_epochs": Case(1.0, RATE, {"training.lr_schedule": "constant"}),
    "training.lr_scaling": Case("linear", RATE),
    "training.betas": Case([0.5, 0.6], weights),
    "training.weight_decay": Case(0.5, weights),
    "training.weight_decay_end": Case(0.5, record("weight_decay")),
    "training.clip_grad": Case(0.01, weights),
    "training.early_stopping.monitor": Case(
        ["health"], stop_step, {**RED, **STOPS, "training.early_stopping.monitor": []}
    ),
    "training.early_stopping.patience": Case(2, stop_step, {**RED, **STOPS}),
    "training.early_stopping.start_epoch": Case(2.0, stop_step, {**RED, **STOPS}),
    "training.accumulation_steps": Case(2, lambda run: run.outcome.step),
    "training.use_amp": Case(True, weights),
    "training.amp_dtype": Case("fp16", weights, {"training.use_amp": True}),
    "training.num_threads": Case(2, environment("threads"), {"training.num_threads": 1}),
    "loss.type": Case("mse", record("loss")),
    "loss.hierarchy_weights": Case([1.0, 0.1], record("loss")),
    "loss.hierarchy_weighting": Case("learned", names),
    "loss.normalize_embeddings": Case(True, record("loss")),
    "loss.temperature": Case(0.5, record("loss"), INFONCE),
    "loss.candidate_images": Case(16, record("chance/level_0"), INFONCE),
    "loss.candidate_cells": Case(2, record("chance/level_0"), INFONCE),
    "loss.variance_loss_weight": Case(0.2, record("variance")),
    "loss.covariance_loss_weight": Case(0.2, record("covariance")),
    "loss.regularised_levels": Case("all", record("variance"), VARIANCE),
    "loss.sliced_gaussian_weight": Case(0.2, record("sliced_gaussian")),
    "checkpoint.save_frequency": Case(2, periodic),
    "checkpoint.save_every_steps": Case(5, periodic),
    "checkpoint.keep_best_n": Case(1, lambda run: len(periodic(run)), {"training.epochs": 6}),
    "logging.log_frequency": Case(4, lambda run: len(run.records)),
    "logging.tensorboard.enabled": Case(True, lambda run: any("tfevents" in f for f in run.files())),
    "evaluation.eval_frequency": Case(2, eval_steps),
    "evaluation.online_images": Case(
        20,
        lambda run: [e["knn_queries"] for e in run.evals],
        {"data.subset": 640, "health.images": 40, "training.epochs": 4, "evaluation.eval_frequency": 4},
    ),
    "health.images": Case(30, lambda run: run.evals[-1]["knn_queries"]),
    "health.spread": Case([100.0, 100.0], signs),
    "health.rank": Case([100.0, 100.0], signs),
    "health.lidar": Case([100.0, 100.0], signs),
    "health.cosine": Case([100.0, 100.0], signs),
    "health.position": Case([100.0, 100.0], signs),
    "health.chance": Case([10.0, 10.0], record("health")),
    "health.diverging": Case([0.0, 0.0], record("health")),
    "health.shrunk": Case([1.0, 1.0], record("health")),
    "health.rise": Case([1.0, 1.0], record("health")),
    "health.rise_of_terms": Case([1.0, 1.0], record("health"), VARIANCE),
    "health.gradient": Case([0.0, 0.0], record("health"), {"health.chance": [100.0, 100.0]}),
    "health.patience": Case(1, saved_on_red, {**RED, "health.actions": ["save"]}),
    "health.actions": Case(["save"], saved_on_red, RED),
    "seed": Case(1, weights),
    "method": Case("ijepa", names),
}

# Keys with their own test in this file.
ELSEWHERE = {
    "training.early_stopping.min_delta": "test_a_small_rise_of_knn_does_not_postpone_an_early_stop",
    "model.gradient_checkpointing": "test_gradient_checkpointing_recomputes_blocks",
    "data.data_path": "test_data_path_and_bad_images",
    "data.bad_images": "test_data_path_and_bad_images",
    "data.classes_file": "test_classes_file_and_labels_file",
    "data.labels_file": "test_classes_file_and_labels_file",
    "data.exclude": "test_exclude",
    "data.download": "test_download_false_is_checked_before_the_network_is_used",
    "data.storage": "test_storage_workers_and_prefetch",
    "data.num_workers": "test_storage_workers_and_prefetch",
    "data.prefetch_factor": "test_storage_workers_and_prefetch",
    "data.jpeg_reduction": "test_jpeg_reduction",
    "data.pin_memory": "test_pinned_memory_and_tf32_on_a_gpu",
    "training.tf32": "test_pinned_memory_and_tf32_on_a_gpu",
    "training.optimizer": "test_muon_takes_the_hidden_matrices_and_adamw_the_rest",
    "training.compile": "test_compile_compiles_the_networks",
    "training.compile_mode": "test_compile_mode",
    "training.deterministic": "test_deterministic_algorithms_are_switched_on_and_off",
    "training.non_finite": "test_non_finite_skips_or_stops",
    "training.resume_schedule": "test_resume_schedule_keeps_or_stretches",
    "data.shard_lanes": "test_shards_lanes_window_and_cache",
    "data.shard_window": "test_shards_lanes_window_and_cache",
    "data.cache_dir": "test_shards_lanes_window_and_cache",
    "data.cache_gib": "test_shards_lanes_window_and_cache",
    "checkpoint.background": "test_checkpoints_are_written_in_the_background",
    "checkpoint.best_metric": "test_best_metric",
    "checkpoint.checkpoint_dir": "test_folders_of_the_configuration",
    "logging.log_dir": "test_folders_of_the_configuration",
    "logging.experiment_name": "test_folders_of_the_configuration",
    "logging.wandb.enabled": "test_weights_and_biases",
    "logging.wandb.project": "test_weights_and_biases",
    "logging.wandb.tags": "test_weights_and_biases",
    "evaluation.final": "test_final_evaluation_and_its_images",
    "evaluation.train_images": "test_final_evaluation_and_its_images",
    "evaluation.test_images": "test_final_evaluation_and_its_images",
    "evaluation.fine_tune.images": "test_keys_of_fine_tuning_and_the_supervised_control",
    "evaluation.fine_tune.test_images": "test_keys_of_fine_tuning_and_the_supervised_control",
    "evaluation.fine_tune.epochs": "test_keys_of_fine_tuning_and_the_supervised_control",
    "evaluation.fine_tune.batch_size": "test_keys_of_fine_tuning_and_the_supervised_control",
    "evaluation.fine_tune.lr": "test_keys_of_fine_tuning_and_the_supervised_control",
    "evaluation.fine_tune.layer_decay": "test_keys_of_fine_tuning_and_the_supervised_control",
    "evaluation.fine_tune.blocks": "test_keys_of_fine_tuning_and_the_supervised_control",
    "evaluation.fine_tune.weight_decay": "test_keys_of_fine_tuning_and_the_supervised_control",
    "evaluation.fine_tune.label_smoothing": "test_keys_of_fine_tuning_and_the_supervised_control",
    "evaluation.supervised.share": "test_keys_of_fine_tuning_and_the_supervised_control",
    "evaluation.supervised.lr": "test_keys_of_fine_tuning_and_the_supervised_control",
    "evaluation.robustness.images": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.segmentation.dataset": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.segmentation.data_path": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.segmentation.train_images": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.segmentation.test_images": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.segmentation.epochs": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.segmentation.lr": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.detection.dataset": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.detection.data_path": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.detection.train_images": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.detection.test_images": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.detection.epochs": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.detection.lr": "test_keys_of_robustness_and_dense_tasks",
    "evaluation.detection.encoder": "test_keys_of_robustness_and_dense_tasks",
    "health.knn": "test_a_fall_of_knn_beyond_its_limit_is_a_sign",
    "health.webhook": "test_alerts_use_their_settings",
    "health.email.to": "test_alerts_use_their_settings",
    "health.email.sender": "test_alerts_use_their_settings",
    "health.email.server": "test_alerts_use_their_settings",
    "health.email.port": "test_alerts_use_their_settings",
    "health.email.security": "test_alerts_use_their_settings",
    "health.email.user": "test_alerts_use_their_settings",
    "health.email.password_variable": "test_alerts_use_their_settings",
    "distributed.enabled": "test_distributed",
    "distributed.backend": "test_distributed",
    "distributed.strategy": "test_strategy_and_timeout_of_two_processes",
    "distributed.timeout": "test_strategy_and_timeout_of_two_processes",
    "device": "test_device",
}


def test_a_small_rise_of_knn_does_not_postpone_an_early_stop() -> None:
    from hjepa.training.early_stopping import EarlyStopping

    def stops(least: float) -> bool:
        keys = {"monitor": ["knn"], "patience": 1, "min_delta": least}
        rule = EarlyStopping(
            tiny_config({f"training.early_stopping.{k}": v for k, v in keys.items()}).training.early_stopping
        )
        records = [{"step": n, "epoch": float(n), "health": "green", "knn": 0.1 * n} for n in (1, 2)]
        return [rule.see(record) for record in records][-1]

    assert (stops(0.0), stops(0.2)) == (False, True)


def test_every_key_has_a_test() -> None:
    assert set(CASES) | set(ELSEWHERE) == set(all_keys())
    assert not set(CASES) & set(ELSEWHERE)
    assert all(test in globals() for test in ELSEWHERE.values())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Observed]:
    """Runs without the change, trained once for all cases with the same settings."""
    done: dict[str, Observed] = {}

    def get(settings: dict[str, Any]) -> Observed:
        key = json.dumps(settings, sort_keys=True)
        if key not in done:
            done[key] = run_tiny(tmp_path_factory.mktemp("reference") / "run", settings)
        return done[key]

    return get


def test_repeating_a_run_changes_nothing_observed(run: Run, reference: Callable[[dict[str, Any]], Observed]) -> None:
    again = run()
    for case in CASES.values():
        if not case.base:
            assert case.see(again) == case.see(reference({}))


@pytest.mark.parametrize("key", CASES)
def test_the_key_has_an_effect(key: str, run: Run, reference: Callable[[dict[str, Any]], Observed]) -> None:
    case = CASES[key]
    assert case.see(run({**case.base, key: case.value})) != case.see(reference(case.base))


def test_gradient_checkpointing_recomputes_blocks() -> None:
    from hjepa.models import build_model

    calls = {}
    for frugal in (False, True):
        model = build_model(tiny_config({"model.gradient_checkpointing": frugal})).train()
        count = 0

        def counting(*_: Any) -> None:
            nonlocal count
            count += 1

        model.context_encoder.blocks[0].register_forward_pre_hook(counting)
        model.extract_features(torch.randn(2, 3, 16, 16), encoder="context").sum().backward()
        calls[frugal] = count
    assert calls == {False: 1, True: 2}


def pictures(folder: Path, count: int = 40, size: int = 20) -> Path:
    random = np.random.default_rng(0)
    for index in range(count):
        name = "left" if index % 2 else "right"
        (folder / name).mkdir(parents=True, exist_ok=True)
        array = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / name / f"{index}.png")
    return folder


FOLDER = {"data.dataset": "folder", "data.subset": None, "training.max_steps": 1, "data.test_fraction": 0.1}


def test_data_path_and_bad_images(run: Run, tmp_path: Path) -> None:
    good = pictures(tmp_path / "good")
    bad = pictures(tmp_path / "bad", 44)
    (bad / "left" / "broken.png").write_text("no picture")
    keys = {**FOLDER, "data.data_path": str(good)}
    assert "folder: 36 images" in run(keys).log
    seen = run({**keys, "data.data_path": str(bad)})
    assert "broken.png" in seen.log
    with pytest.raises(UserError, match=r"broken\.png"):
        run({**keys, "data.data_path": str(bad), "data.bad_images": "stop"})


def test_classes_file_and_labels_file(run: Run, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures")
    keys = {**FOLDER, "data.data_path": str(folder)}
    everything = run(keys)
    (tmp_path / "classes.txt").write_text("left\n")
    one_class = run({**keys, "data.classes_file": str(tmp_path / "classes.txt")})
    assert "folder: 36 images" in everything.log
    assert "folder: 18 images" in one_class.log
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in folder.rglob("*.png"):
        file.rename(flat / file.name)
    keys["data.data_path"] = str(flat)
    assert "knn" not in run(keys).evals[-1]
    rows = "".join(f"{i}.png,{'odd' if i % 2 else 'even'}\n" for i in range(40))
    (tmp_path / "labels.csv").write_text("file,label\n" + rows)
    assert "knn" in run({**keys, "data.labels_file": str(tmp_path / "labels.csv")}).evals[-1]


def test_exclude(run: Run, tmp_path: Path) -> None:
    keys = {**FOLDER, "data.data_path": str(pictures(tmp_path / "pictures"))}
    fewer = run({**keys, "data.exclude": ["right"]})
    assert "folder: 36 images" in run(keys).log
    assert "folder: 18 images" in fewer.log
    assert "left out by data.exclude" in fewer.log


def test_download_false_is_checked_before_the_network_is_used(run: Run, tmp_path: Path) -> None:
    keys = {"data.dataset": "cifar10", "data.data_path": str(tmp_path / "none"), "data.download": False}
    with pytest.raises(UserError, match=r"data\.download") as error:
        run(keys)
    assert "\n" not in str(error.value)


def test_storage_workers_and_prefetch(run: Run) -> None:
    import multiprocessing

    from hjepa.data import TrainLoader, build_dataset

    def loader(**keys: Any) -> TrainLoader:
        config = tiny_config({f"data.{k}": v for k, v in keys.items()})
        dataset = build_dataset(config.data, "train", seed=0)
        return TrainLoader(
            dataset, config.data, (16, 16), mean=[0.5] * 3, std=[0.2] * 3, seed=0, device=torch.device("cpu")
        )

    assert loader().storage == "device"
    assert loader(storage="workers").storage == "workers"
    before = len(multiprocessing.active_children())
    batches = loader(storage="workers", num_workers=2).batches(0, 3)
    next(batches)
    assert len(multiprocessing.active_children()) == before + 2
    del batches
    asked: dict[int, int] = {}
    for factor in (1, 3):
        ahead = loader(storage="workers", num_workers=1, prefetch_factor=factor)
        asked[factor] = jobs_asked_before_the_first_batch(ahead)
    assert asked[3] > asked[1]
    same = run({"data.storage": "workers", "data.num_workers": 1})
    # Workers hand over 8-bit images, so losses agree to rounding, not bit by bit.
    assert [r["loss"] for r in same.records] == pytest.approx([r["loss"] for r in run().records], rel=0.01)


def test_jpeg_reduction(tmp_path: Path) -> None:
    from hjepa.data import TrainLoader, build_dataset

    random = np.random.default_rng(0)
    for number in range(10):
        coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((200, 150), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.jpg", quality=95)
    images = {}
    for reduce in (False, True):
        keys = {"dataset": "folder", "data_path": str(tmp_path), "storage": "workers", "jpeg_reduction": reduce}
        data = tiny_config({f"data.{key}": value for key, value in keys.items()}).data
        dataset = build_dataset(data, "train", seed=0)
        arguments = {"mean": [0.0] * 3, "std": [1.0] * 3, "seed": 0, "device": torch.device("cpu")}
        images[reduce] = torch.cat([b.images for b in TrainLoader(dataset, data, (16, 16), **arguments).batches(0, 4)])
    difference = (images[True] - images[False]).abs() * 255
    assert difference.max() > 0
    assert difference.mean() < 3
    assert difference.max() < 40


def jobs_asked_before_the_first_batch(loader: Any) -> int:
    """Number of batches that a loader has planned when it delivers the first."""
    plan = loader._plan
    count = 0

    def counting(start: int, stop: int) -> Any:
        nonlocal count
        for item in plan(start, stop):
            count += 1
            yield item

    loader._plan = counting
    next(iter(loader.batches(0, 6)))
    return count


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory and TF32 exist with a CUDA GPU only")
def test_pinned_memory_and_tf32_on_a_gpu(run: Run) -> None:
    plain = run({"device": "cuda", "training.tf32": False})
    assert torch.get_float32_matmul_precision() == "highest"
    fast = run({"device": "cuda", "training.tf32": True})
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.allclose(plain.weights, fast.weights, atol=1e-2)
    pinned = run({"device": "cuda", "data.pin_memory": True, "data.storage": "workers", "data.num_workers": 1})
    assert pinned.outcome.completed


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest(run: Run, tmp_path: Path) -> None:
    adamw = run({"training.optimizer": "adamw"}).state["optimizer_state_dict"]["state"]
    assert {"exp_avg", "exp_avg_sq", "step"} <= adamw[0].keys()
    whole = run({"training.optimizer": "muon"})
    hidden, rest = whole.state["optimizer_state_dict"]["members"]
    assert all("momentum_buffer" in state and state["momentum_buffer"].ndim == 2 for state in hidden["state"].values())
    assert all("exp_avg_sq" in state for state in rest["state"].values())
    # four matrices in each of two blocks of the encoder and one of the predictor
    assert len(hidden["state"]) == 12
    assert len(hidden["state"]) + len(rest["state"]) == len(adamw)
    # The optimiser state is saved: an interrupted and resumed run equals an uninterrupted one.
    run({"training.optimizer": "muon", "training.max_steps": 5}, folder=tmp_path / "halves")
    resumed = run({"training.optimizer": "muon"}, folder=tmp_path / "halves", resume="auto")
    assert torch.equal(resumed.weights, whole.weights)
    with pytest.raises(UserError, match=r"training\.optimizer"):
        run({"training.optimizer": "adamw"}, resume=str(tmp_path / "halves"))
    with pytest.raises(UserError, match=r"training\.optimizer"):
        run({"training.optimizer": "sgd"})


def test_compile_compiles_the_networks(run: Run) -> None:
    from torch._dynamo.utils import counters

    keys = {"training.max_steps": 2, "model.predictor.sharing": "shared"}
    plain = run(keys)
    # Graphs cached by an earlier test would be reused and not counted.
    torch._dynamo.reset()
    counters.clear()
    compiled = run({**keys, "training.compile": True})
    assert counters["stats"]["unique_graphs"] > 0
    assert torch.allclose(plain.weights, compiled.weights, atol=1e-4)
    assert (plain.state["compiled"], compiled.state["compiled"]) == (False, True)
    # Feature extraction is never compiled, whatever the batch size.
    from hjepa.models import build_model

    model = build_model(tiny_config(keys)).eval()
    images = torch.zeros(3, model.context_encoder.channels, *model.geometry.image_size)
    expected = model.extract_features(images)
    model.target_encoder.compile()
    graphs = counters["stats"]["unique_graphs"]
    assert torch.equal(model.extract_features(images), expected)
    assert counters["stats"]["unique_graphs"] == graphs
    # On a CPU `auto` means no compilation.
    assert run({**keys, "training.compile": "auto"}).state["compiled"] is False


def test_compile_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    from hjepa.methods import build_method
    from hjepa.training.distributed.strategy import spread

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda _, **keys: asked.append(keys))
    config = tiny_config({"training.compile_mode": "reduce-overhead"})
    spread(build_method(config), "ddp", config, torch.device("cpu"), compiled=True)
    assert len(asked) == 3  # two encoders and a predictor
    assert all(keys == {"mode": "reduce-overhead"} for keys in asked)
    keys = {"training.compile": True, "training.accumulation_steps": 2}
    tiny_config({**keys, "training.compile_mode": "max-autotune-no-cudagraphs"})
    with pytest.raises(UserError, match="replays CUDA graphs"):
        tiny_config({**keys, "training.compile_mode": "reduce-overhead"})


def test_deterministic_algorithms_are_switched_on_and_off(run: Run) -> None:
    for wanted in (True, False):
        run({"training.deterministic": wanted, "training.max_steps": 1})
        assert torch.are_deterministic_algorithms_enabled() == wanted


def test_non_finite_skips_or_stops(run: Run) -> None:
    # With infinite images every update is skipped, or the first one stops the run.
    keys = {"data.mean": [0.5] * 3, "data.std": [1e-45] * 3, "training.max_steps": 3}
    assert run({**keys, "training.non_finite": "skip"}).state["skipped"] == 3
    with pytest.raises(UserError, match=r"training\.non_finite=stop"):
        run({**keys, "training.non_finite": "stop"})


def test_resume_schedule_keeps_or_stretches(run: Run) -> None:
    short = run()
    with pytest.raises(UserError, match=r"training\.resume_schedule=stretch"):
        run({"training.epochs": 4}, folder=short.folder, resume="auto")
    longer = run({"training.epochs": 4, "training.resume_schedule": "stretch"}, folder=short.folder, resume="auto")
    assert longer.outcome.step == 2 * short.outcome.step


def test_shards_lanes_window_and_cache(run: Run, tmp_path: Path) -> None:
    from tests.data.shard_files import serving, write_shards

    write_shards(tmp_path / "served", [16] * 8)
    keys: dict[str, Any] = {
        "data.dataset": "webdataset",
        "data.subset": None,
        "training.max_steps": 2,
        "data.channels": 3,
    }
    local = keys | {"data.data_path": str(tmp_path / "served"), "data.cache_dir": str(tmp_path / "index")}
    plain = run(local)
    assert len(list((tmp_path / "index" / "indexes").glob("*.npz"))) == 8
    assert weights(run(local)) == weights(plain)
    assert weights(run({**local, "data.shard_lanes": 2})) != weights(plain)
    few = {**local, "data.shard_lanes": 2}
    assert weights(run({**few, "data.shard_window": 1})) != weights(run(few))
    with serving(tmp_path / "served") as server:
        remote = keys | {"data.data_path": f"{server.address}/shard-000{{0..7}}.tar"}
        room = 2.5 * (tmp_path / "served" / "shard-0000.tar").stat().st_size / 2**30
        kept = {}
        for gib in (1.0, room):
            cache = tmp_path / f"cache{len(kept)}"
            seen = run({**remote, "data.cache_dir": str(cache), "data.cache_gib": gib})
            assert weights(seen) == weights(plain)
            kept[gib] = len(list((cache / "shards").glob("*.tar")))
        assert kept == {1.0: 8, room: 2}


def test_checkpoints_are_written_in_the_background(run: Run) -> None:
    import threading

    writers: dict[str, set[str]] = {}

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(args[1]).endswith("checkpoint_epoch_1.pth"):
            writers.setdefault(str(args[1]), set()).add(threading.current_thread().name)

    sys.addaudithook(watch)
    seen = {choice: run({"checkpoint.background": choice}) for choice in (True, False)}
    names = {c: writers[str(s.folder / "checkpoints" / "checkpoint_epoch_1.pth")] for c, s in seen.items()}
    assert names == {True: {"hjepa-checkpoint"}, False: {threading.current_thread().name}}
    assert torch.equal(seen[True].weights, seen[False].weights)


def test_best_metric(run: Run) -> None:
    seen = {metric: run({"checkpoint.best_metric": metric}) for metric in ("auto", "knn", "rank", "loss")}
    best = {m: torch.load(s.folder / "checkpoints" / "best_model.pth", weights_only=True) for m, s in seen.items()}
    assert (
        best["auto"]["retention"]["best"]
        == best["knn"]["retention"]["best"]
        == max(e["knn"] for e in seen["knn"].evals)
    )
    assert best["rank"]["retention"]["best"] == max(e["rank"] for e in seen["rank"].evals)
    assert best["loss"]["retention"]["best"] == -best["loss"]["loss"]


def test_folders_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hjepa.training import run_training

    monkeypatch.chdir(tmp_path)
    keys = {"training.max_steps": 1, "logging.experiment_name": "named"}
    assert run_training(tiny_config(keys), console=False).run_dir == Path("runs/named")
    keys |= {"logging.log_dir": "logs/a", "checkpoint.checkpoint_dir": "weights/a"}
    outcome = run_training(tiny_config(keys), console=False)
    assert Path("logs/a/metrics.jsonl").is_file()
    assert outcome.checkpoint == Path("weights/a/last.pth")
    assert outcome.checkpoint.is_file()


def test_weights_and_biases(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    file = tmp_path / "tiny.yaml"
    tree = {**TINY, "training": {**TINY["training"], "max_steps": 2}}
    tree["logging"] = {**TINY["logging"], "wandb": {"enabled": True, "project": "projectname", "tags": ["tagname"]}}
    file.write_text(yaml.safe_dump(tree))
    # A new process, because the client leaves threads and a service running.
    command = [sys.executable, "-m", "hjepa", "train", "--config", str(file), "--output-dir", str(tmp_path / "run")]
    environment_ = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment_, timeout=180)
    assert result.returncode == 0, result.stderr
    files = list((tmp_path / "run" / "wandb").rglob("*.wandb"))
    assert files
    content = files[0].read_bytes()
    assert b"projectname" in content
    assert b"tagname" in content


def test_final_evaluation_and_its_images(tmp_path: Path) -> None:
    from hjepa import train

    keys = {"evaluation.final": True, "evaluation.train_images": 60, "evaluation.test_images": 150}
    with_end = train(tiny_config(keys), output_dir=tmp_path / "with", console=False)
    assert with_end.results["train_images"] == 60
    assert with_end.results["test_images"] == 150
    assert (tmp_path / "with" / "results.json").is_file()
    assert (tmp_path / "with" / "report.html").is_file()
    without = train(tiny_config(), output_dir=tmp_path / "without", console=False)
    assert not without.results
    assert not (tmp_path / "without" / "results.json").exists()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Evaluate a tiny run by one protocol, with changed keys below `evaluation`."""
    from hjepa.evaluation import evaluate
    from hjepa.training import run_training

    folder = tmp_path_factory.mktemp("protocols")
    run_training(tiny_config({"training.max_steps": 2}), output_dir=folder / "run", console=False)
    small = {
        "evaluation.train_images": 60,
        "evaluation.test_images": 30,
        "evaluation.fine_tune.images": 32,
        "evaluation.fine_tune.epochs": 1,
        "evaluation.segmentation.train_images": 20,
        "evaluation.segmentation.test_images": 6,
        "evaluation.segmentation.epochs": 1,
    }

    def evaluated(protocol: str, **changes: Any) -> dict[str, Any]:
        keys = small | {f"evaluation.{protocol}.{key}": value for key, value in changes.items()}
        found = evaluate(folder / "run", eval_type=protocol, device="cpu", output=folder / "r.json", overrides=keys)
        part: dict[str, Any] = found[protocol]
        return part

    evaluated.folder = folder / "run"  # type: ignore[attr-defined]
    return evaluated


def test_keys_of_fine_tuning_and_the_supervised_control(evaluated: Any) -> None:
    from hjepa.config.protocols import FineTuneConfig, SupervisedConfig
    from hjepa.evaluation.prepare import view_of
    from hjepa.evaluation.tuning.classifier import Classifier
    from hjepa.evaluation.tuning.fine_tune import recipe_of
    from hjepa.evaluation.tuning.supervised import supervised_encoder
    from hjepa.evaluation.tuning.training import train_classifier

    part = evaluated("fine_tune", images=24, test_images=7, blocks=1)
    assert (part["images"], part["test_images"]) == (24, 7)
    assert "last_blocks" in part
    assert "last_blocks" not in evaluated("fine_tune", blocks=0)

    trained = load_run(evaluated.folder, device="cpu")
    images = build_splits(trained.config.data, trained.config.seed).train

    def tuned(**changes: Any) -> bytes:
        settings = FineTuneConfig(**{"epochs": 2, "batch_size": 8, "lr": 1e-2, "layer_decay": 0.8, **changes})
        model = Classifier(trained.encoder, 6, 0)
        recipe = recipe_of(settings, 32)
        view = view_of(trained, trained.config)
        train_classifier(model, images, trained.config.data, view, recipe, seed=0)
        return b"".join(value.detach().numpy().tobytes() for value in model.parameters())

    base = tuned()
    changes = {"epochs": 3, "batch_size": 16, "lr": 1e-3, "layer_decay": 0.5, "weight_decay": 0.5, "label_smoothing": 0}
    assert all(tuned(**{key: value}) != base for key, value in changes.items())

    def supervised(**changes: Any) -> bytes:
        keys = trained.config.evaluation.model_copy(update={"supervised": SupervisedConfig(**changes)})
        config = trained.config.model_copy(update={"evaluation": keys})
        encoder, _ = supervised_encoder(trained, config, images, torch.arange(64), torch.device("cpu"))
        return b"".join(value.numpy().tobytes() for value in encoder.parameters())

    assert len({supervised(), supervised(share=2), supervised(lr=1e-4)}) == 3


def test_keys_of_robustness_and_dense_tasks(evaluated: Any) -> None:
    assert evaluated("robustness", images=5)["images"] == 5
    base = evaluated("segmentation")
    part = evaluated("segmentation", train_images=15, test_images=4)
    assert (part["train_images"], part["images"]) == (15, 4)
    assert evaluated("segmentation", lr=0.5)["linear"] != base["linear"]
    assert evaluated("segmentation", epochs=6)["linear"] != base["linear"]
    for protocol, dataset in (("segmentation", "voc"), ("detection", "coco")):
        with pytest.raises(UserError, match=f"evaluation.{protocol}.data_path: missing"):
            evaluated(protocol, dataset=dataset)
        with pytest.raises(UserError, match="/gone is not a folder"):
            evaluated(protocol, dataset=dataset, data_path="/gone")

    from hjepa.config.protocols import DetectionConfig
    from hjepa.data.dense import build_dense
    from hjepa.evaluation.dense.detection import train_detector
    from hjepa.evaluation.prepare import view_of

    pytest.importorskip("pycocotools")
    small = {"train_images": 16, "test_images": 3, "epochs": 1}
    part = evaluated("detection", **small)
    assert (part["train_images"], part["images"]) == (16, 3)
    trained = load_run(evaluated.folder, device="cpu")
    sizes = {"train_images": 18, "test_images": 1, "seed": 0}
    scenes = build_dense("shape_scenes", None, "boxes", image_size=(16, 16), channels=3, **sizes)

    def detector(**changes: Any) -> bytes:
        settings = DetectionConfig(**{"epochs": 1, **changes})
        model = train_detector(
            trained.encoder, scenes.train, torch.arange(16), 6, settings, view_of(trained, trained.config), 0
        )
        return b"".join(value.detach().numpy().tobytes() for value in model.parameters())

    assert len({detector(), detector(lr=1e-2), detector(epochs=2), detector(encoder="fine_tuned")}) == 4


def test_distributed(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="torchrun"):
        run({"distributed.enabled": True})
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY, "training": {**TINY["training"], "max_steps": 1}}))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hjepa"]
    command = [
        *launcher,
        "train",
        "--config",
        str(file),
        "--output-dir",
        str(tmp_path / "run"),
        "distributed.backend=nccl",
    ]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert result.returncode != 0
    assert "distributed.backend: nccl needs CUDA" in result.stderr


def test_strategy_and_timeout_of_two_processes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY, "training": {**TINY["training"], "max_steps": 1}}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runs = [
        {"config": str(file), "folder": str(tmp_path / strategy), "changes": {"distributed.strategy": strategy}}
        for strategy in ("ddp", "fsdp")
    ]
    program = Path(__file__).parents[1] / "training" / "process_program.py"
    command = [sys.executable, str(program), "2", str(port), json.dumps(runs)]
    subprocess.run(command, check=True, capture_output=True, timeout=180, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (tmp_path / "ddp" / "checkpoints" / "last.pth").is_file()
    assert (tmp_path / "fsdp" / "checkpoints" / "last.sharded").is_dir()
    # The other process is never started.
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"does not answer .*[Tt]imed out"):
        run({"distributed.timeout": 1})


def test_device(run: Run) -> None:
    assert environment("device")(run({"training.max_steps": 1, "device": "cpu"})) == "cpu"
    with pytest.raises(UserError, match="device"):
        run({"device": "cuda:99"})


def test_a_fall_of_knn_beyond_its_limit_is_a_sign() -> None:
    from hjepa.health.monitor import Monitor

    figures = {}
    for limits in ([0.1, 0.3], [0.9, 0.9]):
        monitor = Monitor(tiny_config({"health.knn": limits}).health)
        monitor.evaluation([], 0.6, 1000)
        figures[limits[0]] = [sign.figure for sign in monitor.evaluation([], 0.3, 1000).signs]
    assert figures == {0.1: ["knn"], 0.9: []}


def test_alerts_use_their_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ssl

    import trustme
    from tests.health.servers import mailbox, webhook

    from hjepa.health.alerts import Alerts, send

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("MAIL_WORD", "secret")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    keys = {"to": ["a@example.org"], "sender": "lab@example.org", "server": "localhost", "user": "runner"}
    for security in ("none", "starttls", "tls"):
        with mailbox(security, context) as (mails, port):
            given = {**keys, "port": port, "security": security, "password_variable": "MAIL_WORD"}
            alerts = Alerts(tiny_config({"health.email": given}).health, "named")
            alerts("turned red", {})
            alerts.close()
            assert [(mail.sender, mail.recipients, mail.encrypted) for mail in mails] == [
                ("lab@example.org", ["a@example.org"], security != "none")
            ]
            # A server whose certificate nobody vouches for gets nothing.
            if security != "none":
                monkeypatch.delenv("SSL_CERT_FILE")
                with pytest.raises(ssl.SSLCertVerificationError):
                    send(tiny_config({"health.email": given}).health.email, "secret", "subject", "text")
                monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    with webhook() as (received, address):
        alerts = Alerts(tiny_config({"health.webhook": address}).health, "named")
        alerts("turned red", {"step": 3})
        alerts.close()
        assert [body for _, body in received] == [{"text": "named: turned red", "step": 3}]
