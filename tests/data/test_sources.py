"""Built-in and downloaded data sets, the latter from a local server with tiny archives in the real formats."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import pickle
import signal
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.image_files import encode, noise
from tests.data.shard_files import serving
from torchvision.datasets import CIFAR10, STL10

from hjepa.config import DATASETS, DataConfig
from hjepa.config.catalogue import CATALOGUE
from hjepa.data import build_dataset
from hjepa.data.build import SOURCES
from hjepa.data.dataset import MemoryPixels
from hjepa.data.shapes import CLASSES, generate
from hjepa.data.sources import cifar, stl10
from hjepa.errors import DataError, UserError

RNG = np.random.default_rng(0)
CIFAR_PIXELS = RNG.integers(0, 256, (12, 3072), dtype=np.uint8)
STL_PIXELS = RNG.integers(0, 256, (9, 3, 96, 96), dtype=np.uint8)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server for a folder: (address, folder)."""
    root = tmp_path / "served"
    root.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", root
        httpd.shutdown()
        thread.join()


def pack(file: Path, folder: str, members: dict[str, bytes]) -> dict[str, str]:
    """Write a .tar.gz and give the checksums of its members and its own (under "")."""
    with tarfile.open(file, "w:gz") as archive:
        for name, body in members.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    sums = {name: hashlib.md5(body).hexdigest() for name, body in members.items()}
    return sums | {"": hashlib.md5(file.read_bytes()).hexdigest()}


def tiny_cifar(address: str, root: Path) -> type[CIFAR10]:
    def batch(rows: slice) -> bytes:
        return pickle.dumps({"data": CIFAR_PIXELS[rows], "labels": list(range(12))[rows]})

    names = [f"class{i}" for i in range(12)]
    sums = pack(
        root / "cifar.tar.gz",
        CIFAR10.base_folder,
        {
            "data_batch_1": batch(slice(0, 8)),
            "test_batch": batch(slice(8, 12)),
            "batches.meta": pickle.dumps({"label_names": names}),
        },
    )

    class Tiny(CIFAR10):
        url = f"{address}/cifar.tar.gz"
        filename = "cifar.tar.gz"
        tgz_md5 = sums[""]
        train_list = [["data_batch_1", sums["data_batch_1"]]]  # noqa: RUF012  as torchvision declares them
        test_list = [["test_batch", sums["test_batch"]]]  # noqa: RUF012
        meta = CIFAR10.meta | {"md5": sums["batches.meta"]}

    return Tiny


def test_cifar_is_downloaded_verified_and_read(server: tuple[str, Path], tmp_path: Path) -> None:
    archive = tiny_cifar(*server)
    data = DataConfig(dataset="cifar10")
    train = cifar.find(data, "train", tmp_path / "here", archive)
    assert isinstance(train.pixels, MemoryPixels)
    assert torch.equal(train.pixels.images, torch.from_numpy(CIFAR_PIXELS[:8]).view(8, 3, 32, 32))
    assert train.labels.tolist() == list(range(8))
    assert train.class_names[3] == "class3"
    assert train.identifiers[7] == "cifar10/train/7"
    # Once there, neither the server nor the permission to download is needed; the inner folder does as well.
    (server[1] / "cifar.tar.gz").unlink()
    frozen = data.model_copy(update={"download": False})
    test = cifar.find(frozen, "test", tmp_path / "here" / CIFAR10.base_folder, archive)
    assert test.labels.tolist() == [8, 9, 10, 11]


def test_download_failures_are_one_line_errors(server: tuple[str, Path], tmp_path: Path) -> None:
    archive = tiny_cifar(*server)

    def fails(match: str, **keys: object) -> None:
        with pytest.raises(DataError, match=match) as caught:
            cifar.find(DataConfig(dataset="cifar10", **keys), "train", tmp_path / "here", archive)
        assert "\n" not in str(caught.value)
        assert archive.url in str(caught.value)

    fails("not found or damaged at .*here, and data.download=false", download=False)
    (server[1] / "cifar.tar.gz").write_bytes(b"something else")
    fails(r"the download failed \(File not found or corrupted.*by hand to .*here")
    (server[1] / "cifar.tar.gz").unlink()
    (tmp_path / "here" / "cifar.tar.gz").unlink()
    fails(r"the download failed \(HTTP Error 404")
    archive.url = "http://127.0.0.1:9/cifar.tar.gz"
    fails("the download failed .*refused")


def _read_cifar(archive: type[CIFAR10], root: Path) -> None:
    listing = cifar.find(DataConfig(dataset="cifar10"), "train", root, archive)
    assert listing.labels.tolist() == list(range(8))


@pytest.mark.skipif(os.name == "nt", reason="processes are forked")
def test_one_of_several_processes_downloads_and_the_others_wait(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    with serving(tmp_path / "served") as web:
        archive = tiny_cifar(web.address, tmp_path / "served")
        _read_cifar(archive, tmp_path / "alone")
        asked = web.answered["cifar.tar.gz"]
        web.pause = 0.3  # long enough for all of them to find nothing there
        processes = [fork.Process(target=_read_cifar, args=(archive, tmp_path / "here")) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert web.answered["cifar.tar.gz"] == 2 * asked


@pytest.mark.skipif(os.name == "nt", reason="processes are forked")
def test_a_killed_download_leaves_no_lock(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    with serving(tmp_path / "served") as web:
        archive = tiny_cifar(web.address, tmp_path / "served")
        web.pause = 60.0
        process = fork.Process(target=_read_cifar, args=(archive, tmp_path / "here"))
        process.start()
        while not web.answered["cifar.tar.gz"]:
            time.sleep(0.01)
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        web.pause = 0.0
        _read_cifar(archive, tmp_path / "here")


def test_cifar_error_points_to_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"contains Parquet files.*set data.dataset=parquet"):
        build_dataset(DataConfig(dataset="cifar100", data_path=tmp_path))


def test_stl10_keeps_unlabelled_images_for_training(server: tuple[str, Path], tmp_path: Path) -> None:
    # In the files each channel is stored column by column.
    raw = STL_PIXELS.transpose(0, 1, 3, 2)
    members = {
        "train_X.bin": raw[:4].tobytes(),
        "train_y.bin": bytes([1, 2, 10, 1]),
        "unlabeled_X.bin": raw[4:6].tobytes(),
        "test_X.bin": raw[6:].tobytes(),
        "test_y.bin": bytes([3, 2, 1]),
        "class_names.txt": "\n".join(f"class{i}" for i in range(10)).encode(),
        "fold_indices.txt": b"0\n",
    }
    sums = pack(server[1] / "stl.tar.gz", STL10.base_folder, members)

    class Tiny(STL10):
        url = f"{server[0]}/stl.tar.gz"
        filename = "stl.tar.gz"
        tgz_md5 = sums[""]
        train_list = [[name, sums[name]] for name in ("train_X.bin", "train_y.bin", "unlabeled_X.bin")]  # noqa: RUF012
        test_list = [[name, sums[name]] for name in ("test_X.bin", "test_y.bin")]  # noqa: RUF012

    data = DataConfig(dataset="stl10")
    train, test = (stl10.find(data, split, tmp_path / "here", Tiny) for split in ("train", "test"))
    assert train.labels.tolist() == [0, 1, 9, 0, -1, -1]
    assert test.labels.tolist() == [2, 1, 0]
    assert torch.equal(train.pixels.images, torch.from_numpy(STL_PIXELS[:6]))
    assert test.class_names[9] == "class9"


def imagenet(root: Path, classes: int) -> None:
    for part, count in (("train", 2), ("val", 1)):
        for label in range(classes):
            (root / part / f"n{label:08}").mkdir(parents=True)
            for index in range(count):
                data = encode(noise(7 * label + index, 8, 8), "JPEG")
                (root / part / f"n{label:08}" / f"{part}_{index}.JPEG").write_bytes(data)


def test_imagenet_is_read_from_an_extracted_copy(tmp_path: Path) -> None:
    imagenet(tmp_path, 3)
    train, test = (build_dataset(DataConfig(dataset="imagenet", data_path=tmp_path), s) for s in ("train", "test"))
    assert (len(train), len(test), train.channels) == (6, 3, 3)
    assert train.class_names == test.class_names == ("n00000000", "n00000001", "n00000002")
    assert train.identifiers[0] == "train/n00000000/train_0.JPEG"


def imagenet_archives(root: Path) -> dict[str, Path]:
    """Archives of two classes in the layout of ILSVRC 2012: three images each for training, one for validation."""
    from scipy.io import savemat

    def member(name: str, body: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
        entry = tarfile.TarInfo(name)
        entry.size = len(body)
        return entry, io.BytesIO(body)

    files = {
        part: root / f"ILSVRC2012_{name}"
        for part, name in (("train", "img_train.tar"), ("val", "img_val.tar"), ("devkit", "devkit_t12.tar.gz"))
    }
    with tarfile.open(files["train"], "w") as archive:
        for label in range(2):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as pictures:
                for index in range(3):
                    body = encode(noise(3 * label + index, 8, 8), "JPEG")
                    pictures.addfile(*member(f"n{label:08}_{index}.JPEG", body))
            archive.addfile(*member(f"n{label:08}.tar", inner.getvalue()))
    with tarfile.open(files["val"], "w") as archive:
        for label in range(2):
            archive.addfile(*member(f"ILSVRC2012_val_{label}.JPEG", encode(noise(90 + label, 8, 8), "JPEG")))
    names = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")
    synsets = np.array(
        [(label + 1, f"n{label:08}", f"class {label}", "", 0) for label in range(2)],
        dtype=[(name, object) for name in names],
    )
    matrix = io.BytesIO()
    savemat(matrix, {"synsets": synsets})
    with tarfile.open(files["devkit"], "w:gz") as archive:
        archive.addfile(*member("ILSVRC2012_devkit_t12/data/meta.mat", matrix.getvalue()))
        truth = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
        archive.addfile(*member(truth, b"2\n1\n"))
    return files


def _read_imagenet(root: Path) -> None:
    data = DataConfig(dataset="imagenet", data_path=root)
    assert build_dataset(data).labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert build_dataset(data, "test").labels.tolist() == [0, 1]


@pytest.mark.skipif(os.name == "nt", reason="processes are forked")
def test_imagenet_is_extracted_once_and_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import imagenet as archives

    for part, file in imagenet_archives(tmp_path).items():
        checksum = hashlib.md5(file.read_bytes()).hexdigest()
        monkeypatch.setitem(archives.ARCHIVE_META, part, (file.name, checksum))
    # What a process that was killed has left is not taken for the data set.
    (tmp_path / ".extracting-train" / "train" / "n00000000").mkdir(parents=True)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_read_imagenet, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert {entry.name for entry in tmp_path.iterdir() if entry.is_dir()} == {"train", "val"}
    assert len(list(tmp_path.glob("ILSVRC2012_*"))) == 3


def test_missing_imagenet_gives_instructions(tmp_path: Path) -> None:
    data = DataConfig(dataset="imagenet", data_path=tmp_path)
    with pytest.raises(DataError, match=r"register at https://image-net.org.*ILSVRC2012_img_train.tar") as caught:
        build_dataset(data)
    assert "\n" not in str(caught.value)
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_devkit_t12.tar.gz"):
        (tmp_path / name).write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"ILSVRC2012_img_train.tar cannot be extracted") as caught:
        build_dataset(data)
    assert "\n" not in str(caught.value)


def test_imagenet100_needs_a_class_list(tmp_path: Path) -> None:
    imagenet(tmp_path, 3)
    data = DataConfig(dataset="imagenet100", data_path=tmp_path)
    with pytest.raises(DataError, match=r"has 3 class folders; set data.classes_file"):
        build_dataset(data)
    chosen = tmp_path / "classes.txt"
    chosen.write_text("n00000002\nn00000000\n", encoding="utf-8")
    dataset = build_dataset(data.model_copy(update={"classes_file": chosen}))
    assert dataset.class_names == ("n00000002", "n00000000")
    assert dataset.labels.bincount().tolist() == [2, 2]


def test_shapes_are_those_of_the_generator_and_a_subset_generates_only_its_images() -> None:
    dataset = build_dataset(DataConfig(dataset="shapes", subset=24, image_size=16))
    images, labels = generate(24, image_size=16)
    assert torch.equal(dataset.images, images)
    assert torch.equal(dataset.labels, labels)
    assert dataset.class_names == CLASSES
    assert dataset.description.startswith("shapes v")
    assert build_dataset(DataConfig(dataset="shapes", subset=0.001, image_size=[8, 12], channels=1)).images.shape == (
        20,
        1,
        8,
        12,
    )
    with pytest.raises(UserError, match="image_size"):
        build_dataset(DataConfig(dataset="shapes", subset=8, image_size=4))


def test_digits_are_those_of_scikit_learn() -> None:
    train, test = (build_dataset(DataConfig(dataset="digits"), split) for split in ("train", "test"))
    assert len(train) + len(test) == 1797
    assert set(train.identifiers).isdisjoint(test.identifiers)
    assert train.images.shape[1:] == (1, 8, 8)
    assert (train.images.min(), train.images.max()) == (0, 255)
    colour = build_dataset(DataConfig(dataset="digits", channels=3, subset=50))
    assert colour.images.shape == (50, 3, 8, 8)
    assert colour.labels.bincount().tolist() == [5] * 10
    with pytest.raises(DataError, match=r"data.channels: digits has 1 channels, which cannot be converted to 5"):
        build_dataset(DataConfig(dataset="digits", channels=5))


def test_every_data_set_name_has_a_source_and_a_catalogue_entry() -> None:
    assert set(SOURCES) == set(DATASETS) == {entry.name for entry in CATALOGUE}
