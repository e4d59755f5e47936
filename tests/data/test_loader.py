"""Batches: order, independence of processes, workers and accumulation, storage, evaluation view, statistics."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.image_files import encode, noise

from hjepa.config import DataConfig, load_config
from hjepa.data import (
    Batch,
    EvalLoader,
    ImageDataset,
    TrainLoader,
    build_dataloader,
    build_dataset,
    eval_batches,
    measure_statistics,
    random_dataset,
)
from hjepa.errors import DataError, UserError

CPU = torch.device("cpu")
Make = Callable[..., ImageDataset]


def loader(
    images: ImageDataset, size: int = 16, *, accumulation: int = 1, rank: int = 0, world: int = 1, **keys: Any
) -> TrainLoader:
    keys = {"batch_size": 8, "augmentation": {"color_jitter": 0.3}} | keys
    channels = images.channels
    return TrainLoader(
        images,
        DataConfig(**keys),
        (size, size),
        mean=[0.4] * channels,
        std=[0.5] * channels,
        seed=7,
        accumulation_steps=accumulation,
        rank=rank,
        world_size=world,
        device=CPU,
    )


def equal(a: list[Batch], b: list[Batch], atol: float = 0.0) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.indices, y.indices) and torch.allclose(x.images, y.images, rtol=0, atol=atol)
        for x, y in zip(a, b, strict=True)
    )


def test_an_epoch_has_every_image_once_and_epochs_differ(memory_dataset: Make) -> None:
    batches = loader(memory_dataset(40))
    assert (batches.storage, batches.global_batch, batches.steps_per_epoch) == ("device", 8, 5)
    epochs = [torch.cat([b.indices for b in batches.batches(5 * e, 5 * e + 5)]) for e in range(2)]
    assert all(epoch.sort().values.tolist() == list(range(40)) for epoch in epochs)
    assert not torch.equal(*epochs)
    first = next(batches.batches(0, 1))
    assert first.images.shape == (8, 3, 16, 16)
    assert first.images.dtype == torch.float32


def test_iteration_can_start_at_any_step(memory_dataset: Make) -> None:
    whole = list(loader(memory_dataset(40)).batches(0, 12))
    assert equal(list(loader(memory_dataset(40)).batches(7, 12)), whole[7:])


def test_a_set_smaller_than_the_batch_wraps_around(memory_dataset: Make) -> None:
    batches = loader(memory_dataset(5))
    assert batches.steps_per_epoch == 1
    indices = next(batches.batches(0, 1)).indices
    assert indices[:5].sort().values.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(indices[5:], indices[:3])


@pytest.mark.parametrize("storage", ["device", "workers"])
def test_batches_do_not_depend_on_processes_or_accumulation(memory_dataset: Make, storage: str) -> None:
    dataset = memory_dataset(50)
    one = list(loader(dataset, batch_size=16, storage=storage).batches(0, 4))
    ranks = [
        list(loader(dataset, batch_size=4, storage=storage, accumulation=2, rank=r, world=2).batches(0, 4))
        for r in range(2)
    ]
    for step in range(4):
        parts = [ranks[r][2 * step + m] for m in range(2) for r in range(2)]
        assert torch.equal(torch.cat([part.indices for part in parts]), one[step].indices)
        assert torch.allclose(torch.cat([part.images for part in parts]), one[step].images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 40), (5, 12)])
def test_workers_and_device_give_the_same_images(memory_dataset: Make, dtype: str, channels: int, size: int) -> None:
    dataset = memory_dataset(20, channels=channels, dtype=dtype)
    device = list(loader(dataset, size, storage="device", augmentation={}).batches(0, 3))
    workers = list(loader(dataset, size, storage="workers", augmentation={}).batches(0, 3))
    # One grey level, in units of the normalised images, and a little for the sums of the reference.
    assert equal(workers, device, atol=1.01 / 255 / 0.5)


def test_batches_do_not_depend_on_workers_and_the_global_generator_is_unused(class_folder: Path) -> None:
    data = {"dataset": "folder", "data_path": class_folder, "storage": "workers"}
    dataset = build_dataset(DataConfig(**data), seed=1)
    state = torch.random.get_rng_state()
    plain = loader(dataset, **data)
    assert plain.storage == "workers"
    expected = list(plain.batches(0, 6))
    parallel = loader(dataset, num_workers=2, prefetch_factor=1, **data)
    abandoned = parallel.batches(0, 6)
    next(abandoned)
    abandoned.close()
    # Persistent workers start again, at another step, after an iteration that was left half-way.
    assert equal(list(parallel.batches(2, 6)), expected[2:])
    assert equal(list(parallel.batches(0, 6)), expected)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("abandoned", [False, True])
def test_workers_end_with_their_loader_without_garbage_collection(class_folder: Path, abandoned: bool) -> None:
    import multiprocessing

    data = {"dataset": "folder", "data_path": class_folder, "storage": "workers"}
    before = set(multiprocessing.active_children())
    gc.disable()
    try:
        batches = loader(build_dataset(DataConfig(**data)), num_workers=1, **data)
        some = batches.batches(0, 9)
        for _ in range(1 if abandoned else 9):
            next(some)
        assert next(some, None) is not None if abandoned else next(some, None) is None
        (worker,) = set(multiprocessing.active_children()) - before
        del some, batches
        # Told to stop, not left to be terminated.
        assert worker.exitcode == 0
    finally:
        gc.enable()


def test_dropping_an_old_iterator_does_not_affect_a_new_one(class_folder: Path) -> None:
    data = {"dataset": "folder", "data_path": class_folder, "storage": "workers"}
    batches = loader(build_dataset(DataConfig(**data)), num_workers=1, **data)
    expected = list(batches.batches(4, 8))
    old = batches.batches(0, 8)
    next(old)
    new = batches.batches(4, 8)
    first = next(new)
    old.close()
    assert equal([first, *new], expected)


def test_mixed_sizes_in_memory_equal_workers(class_folder: Path) -> None:
    data = {"dataset": "folder", "data_path": class_folder}
    dataset = build_dataset(DataConfig(**data))
    assert dataset.images is None
    assert dataset.decoded_bytes is not None
    device = loader(dataset, augmentation={}, **data)
    assert device.storage == "device"
    workers = loader(dataset, augmentation={}, **data, storage="workers")
    assert equal(list(device.batches(0, 4)), list(workers.batches(0, 4)), atol=1.01 / 255 / 0.5)


def test_augmentation_keys_take_effect(memory_dataset: Make) -> None:
    dataset = memory_dataset(16, size=(16, 16))
    plain = {"random_crop": False, "horizontal_flip": False}

    def images(**augmentation: object) -> torch.Tensor:
        return next(loader(dataset, augmentation=augmentation, batch_size=16).batches(0, 1)).images

    rows = next(loader(dataset, augmentation=plain, batch_size=16).batches(0, 1)).indices
    untouched = (dataset.images[rows].float() / 255 - 0.4) / 0.5
    assert torch.allclose(images(**plain), untouched, atol=1e-5)
    flipped = images(random_crop=False)
    mirrored = (flipped - untouched.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-4
    same = (flipped - untouched).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert mirrored.any()
    assert same.any()
    assert (mirrored | same).all()
    assert not torch.allclose(images(**plain, color_jitter=0.5), untouched, atol=1e-2)
    assert not torch.allclose(images(horizontal_flip=False), untouched, atol=1e-2)


def test_a_file_damaged_after_the_scan_is_replaced_and_counted(
    class_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"dataset": "folder", "data_path": class_folder, "storage": "workers"}
    dataset = build_dataset(DataConfig(**data))
    strict = build_dataset(DataConfig(**data, bad_images="stop"))
    victim = dataset.identifiers[3]
    (class_folder / victim).write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="hjepa"):
        seen = torch.cat([b.indices for b in loader(dataset, **data).batches(0, 4)])
    assert 3 not in seen
    assert (seen == 4).sum() > 1
    assert [tuple(bad) for bad in dataset.bad_files] == [(victim, "empty file")]
    assert [r.message for r in caplog.records] == [f"skipped {victim}: empty file"]
    view = {"mean": [0.0] * 3, "std": [1.0] * 3, "batch_size": 4, "device": CPU}
    evaluated = torch.cat([b.indices for b in eval_batches(dataset, None, (8, 8), **view)])
    assert evaluated.tolist() == [i for i in range(len(dataset)) if i != 3]
    with pytest.raises(DataError, match=f"{victim} \\(empty file\\)"):
        list(loader(strict, **data, bad_images="stop").batches(0, 4))
    with pytest.raises(DataError, match=victim):
        strict.read(3)


def test_no_readable_image_is_a_single_error(class_folder: Path) -> None:
    data = {"dataset": "folder", "data_path": class_folder, "storage": "workers"}
    dataset = build_dataset(DataConfig(**data))
    for file in class_folder.rglob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match="too many consecutive files cannot be read") as caught:
        list(loader(dataset, **data).batches(0, 1))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no image can be read"):
        measure_statistics(dataset, 0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_is_centred_ordered_and_repeatable(class_folder: Path, num_workers: int) -> None:
    from torchvision.transforms.v2 import functional as tv

    data = {"dataset": "folder", "data_path": class_folder, "storage": "workers"}
    dataset = build_dataset(DataConfig(**data))
    rows = torch.tensor([5, 0, 7, 2, 1])
    view = EvalLoader(
        dataset, rows, (8, 8), mean=[0.0] * 3, std=[1.0] * 3, batch_size=2, num_workers=num_workers, device=CPU
    )
    assert len(view) == 3
    batches = list(view)
    assert equal(batches, list(view))
    assert torch.equal(torch.cat([b.indices for b in batches]), rows)
    for row, image in zip(rows.tolist(), torch.cat([b.images for b in batches]), strict=True):
        picture = dataset.read(row).float() / 255
        side = min(picture.shape[1:])
        expected = tv.resize(tv.center_crop(picture, [side, side]), [8, 8], antialias=True)
        assert torch.allclose(image, expected, atol=1 / 255)


@pytest.mark.parametrize("size", [(20, 24), (8, 8), (10, 30)])
def test_evaluation_from_memory_equals_evaluation_from_files(memory_dataset: Make, size: tuple[int, int]) -> None:
    from hjepa.data.dataset import MemoryPixels

    dataset = memory_dataset(6)
    listed = ImageDataset(
        MemoryPixels(list(dataset.images)), name="l", split="test", channels=3, identifiers=dataset.identifiers
    )
    view = {"mean": [0.4] * 3, "std": [0.5] * 3, "batch_size": 4, "device": CPU}
    assert equal(list(eval_batches(dataset, None, size, **view)), list(eval_batches(listed, None, size, **view)), 0.01)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_statistics_are_those_of_the_pixels(memory_dataset: Make, dtype: str) -> None:
    dataset = memory_dataset(150, dtype=dtype)
    scale = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    values = dataset.images.double() / scale
    mean, std = measure_statistics(dataset, 0)
    assert torch.allclose(torch.tensor(mean).double(), values.mean(dim=(0, 2, 3)))
    assert torch.allclose(torch.tensor(std).double(), values.std(dim=(0, 2, 3), correction=0), atol=1e-6)


def test_statistics_of_files_and_of_a_constant_channel(tmp_path: Path) -> None:
    for index in range(4):
        array = noise(index)
        array = array.copy()
        array[..., 2] = 100
        (tmp_path / f"{index}.png").write_bytes(encode(array))
    mean, std = measure_statistics(
        build_dataset(DataConfig(dataset="folder", data_path=tmp_path, storage="workers")), 0
    )
    assert mean[2] == pytest.approx(100 / 255)
    assert std[2] == pytest.approx(1 / 255)


def test_wrong_number_of_statistics_is_a_one_line_error(memory_dataset: Make) -> None:
    with pytest.raises(UserError, match=r"data.mean: has 3 values, but the images have 1 channels"):
        TrainLoader(memory_dataset(4, channels=1), DataConfig(), (8, 8), mean=[0] * 3, std=[1] * 3, seed=0, device=CPU)


def test_build_dataloader_uses_the_training_statistics_for_both_splits() -> None:
    keys = {"data.dataset": "digits", "data.batch_size": 16, "model.encoder_type": "vit_tiny_patch4_8"}
    config = load_config(None, keys | {"training.accumulation_steps": 2})
    train, test = build_dataloader(config), build_dataloader(config, "test")
    assert isinstance(train, TrainLoader)
    assert isinstance(test, EvalLoader)
    assert train.global_batch == 32
    images = torch.cat([batch.images for batch in test])
    assert images.shape == (len(test.dataset), 1, 8, 8)
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05
    given = load_config(None, keys | {"data.mean": [0.0], "data.std": [1.0]})
    assert next(iter(build_dataloader(given, "test"))).images.min() == 0


def test_random_dataset_is_reproducible_noise() -> None:
    a, b = random_dataset(4, 3, (8, 10), seed=1), random_dataset(4, 3, (8, 10), seed=1)
    assert torch.equal(a.images, b.images)
    assert a.images.shape == (4, 3, 8, 10)
    assert not torch.equal(a.images, random_dataset(4, 3, (8, 10), seed=2).images)
