"""Remote shards: downloaded on demand, kept in a cache of limited size, shared between processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.image_files import noise
from tests.data.shard_files import Server, serving, write_shards

from hjepa.config import DataConfig
from hjepa.data import ImageDataset, TrainLoader, build_dataset, measure_statistics
from hjepa.data.build import list_images
from hjepa.data.image_sample import occurs_in, sample_images
from hjepa.data.shards import cache as cache_module
from hjepa.data.shards.cache import FetchError, ShardCache
from hjepa.errors import DataError

FORK = multiprocessing.get_context("fork") if os.name != "nt" else None


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Path]]:
    """Eight shards of 20 images on a server, and the folder it serves."""
    monkeypatch.setattr(cache_module, "_FIRST_PAUSE", 0.001)
    root = tmp_path / "served"
    files = write_shards(root, [20] * 8)
    rows = [{"url": file.name, "nsamples": 20} for file in files]
    (root / "list.json").write_text(json.dumps({"shardlist": rows}))
    with serving(root) as server:
        yield server, root


@pytest.fixture
def settings(tmp_path: Path, served: tuple[Server, Path]) -> Callable[..., DataConfig]:
    """A ``data`` section for a path on the server."""

    def make(path: str, **keys: Any) -> DataConfig:
        base = {"dataset": "webdataset", "data_path": f"{served[0].address}/{path}", "cache_dir": tmp_path / "cache"}
        return DataConfig(**(base | {"batch_size": 8, "storage": "workers", "channels": 3} | keys))

    return make


Make = Callable[..., DataConfig]


def loader(dataset: ImageDataset, data: DataConfig, rank: int = 0, world: int = 1) -> TrainLoader:
    return TrainLoader(
        dataset,
        data,
        (8, 8),
        mean=[0.4] * 3,
        std=[0.5] * 3,
        seed=7,
        rank=rank,
        world_size=world,
        device=torch.device("cpu"),
    )


def shards_of(server: Server) -> set[str]:
    return {name for name in server.answered if name.endswith(".tar")}


def test_with_counts_in_the_list_only_shards_that_are_read_are_downloaded(
    served: tuple[Server, Path], settings: Make
) -> None:
    server, _ = served
    data = settings("list.json", shard_lanes=2, shard_window=1)
    # Above the limit for looking at every image first, as large sets are.
    import hjepa.data.loading.first_read as storage

    limit, storage.SCAN_LIMIT = storage.SCAN_LIMIT, 10
    try:
        dataset = build_dataset(data)
    finally:
        storage.SCAN_LIMIT = limit
    assert len(dataset) == 128
    assert dataset.labels is None
    looked_at = shards_of(server)
    assert len(looked_at) <= 2
    assert dataset.identifiers[-1].startswith("shard-0007.tar!#")
    batch = next(loader(dataset, data).batches(0, 1))
    for row, name in zip(
        batch.indices.tolist(), map(dataset.identifiers.__getitem__, batch.indices.tolist()), strict=True
    ):
        picture = torch.from_numpy(noise(int(name.rpartition("!")[2]), 12, 14).copy()).permute(2, 0, 1)
        assert torch.equal(dataset.read(row), picture)
    assert all(count == 1 for count in server.answered.values())


def test_no_shard_is_downloaded_to_recognise_a_data_set(served: tuple[Server, Path], settings: Make) -> None:
    server, _ = served
    listing = list_images(settings("list.json"), "train")
    before = shards_of(server)
    assert sample_images(listing) is None
    assert occurs_in([["0" * 16, "1" * 16, "2" * 32]], listing, 3) is None
    assert shards_of(server) == before


def test_shards_of_a_pattern_are_counted_once_and_have_labels(served: tuple[Server, Path], settings: Make) -> None:
    server, _ = served
    train, test = (build_dataset(settings("shard-{0000..0003}.tar"), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (65, 15)
    assert train.class_names == ("0", "1", "2")
    assert [server.answered[f"shard-000{n}.tar"] for n in range(4)] == [1, 1, 1, 1]
    assert train.labels.tolist() == [int(name.rpartition("!")[2]) % 3 for name in train.identifiers]


def test_remote_equals_local(served: tuple[Server, Path], settings: Make) -> None:
    _, root = served
    tree = json.loads((root / "list.json").read_text())
    for number, row in enumerate(tree["shardlist"]):
        row["labels"] = [index % 3 for index in range(20 * number, 20 * number + 20)]
    (root / "list.json").write_text(json.dumps(tree | {"class_names": ["x", "y", "z"]}))
    remote = settings("list.json", num_workers=2, prefetch_factor=1)
    local = remote.model_copy(update={"data_path": root, "num_workers": 0})
    (root / "shards.json").write_text((root / "list.json").read_text())
    far, near = build_dataset(remote), build_dataset(local)
    assert far.class_names == near.class_names == ("x", "y", "z")
    assert torch.equal(far.labels, near.labels)
    assert list(far.identifiers) == list(near.identifiers)
    a, b = list(loader(far, remote).batches(3, 9)), list(loader(near, local).batches(3, 9))
    assert len(a) == len(b) == 6
    assert all(torch.equal(x.indices, y.indices) and torch.equal(x.images, y.images) for x, y in zip(a, b, strict=True))


def test_processes_prefetch_disjoint_shards(served: tuple[Server, Path], settings: Make) -> None:
    server, root = served
    data = settings("list.json", shard_lanes=4, shard_window=1, batch_size=4, test_fraction=0.001)
    local = data.model_copy(update={"data_path": root / "list.json"})
    dataset = build_dataset(local)
    names = {}
    for rank in range(2):
        mine = loader(dataset, local, rank, 2)
        read = torch.cat([batch.indices for batch in mine.batches(0, mine.steps_per_epoch)])
        names[rank] = {dataset.identifiers[row].partition("!")[0] for row in read.tolist()}
    assert len(names[0] & names[1]) <= 2
    # The first step asks for the window that it is in; reading is then not held up by fetching.
    remote = build_dataset(data)
    server.answered.clear()
    for file in (data.cache_dir / "shards").glob("*.tar"):
        file.unlink()
    ahead = loader(remote, data, 0, 2)
    next(ahead.batches(0, 1))
    deadline = time.monotonic() + 30
    wanted = {
        remote.identifiers[row].partition("!")[0]
        for row in ahead._order.indices(ahead._order.steps_per_window)[:4].tolist()
    }
    while not wanted <= shards_of(server) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert wanted <= shards_of(server)


def test_the_cache_keeps_its_limit_and_drops_the_least_recently_used(
    served: tuple[Server, Path], tmp_path: Path
) -> None:
    server, root = served
    size = (root / "shard-0000.tar").stat().st_size
    cache = ShardCache(tmp_path / "cache", 3 * size + 100)
    urls = [f"{server.address}/shard-000{n}.tar" for n in range(5)]
    for url in urls[:3]:
        cache.get(url)
    cache.get(urls[0])
    cache.get(urls[3])
    assert [cache.file(url).exists() for url in urls] == [True, False, True, True, False]
    assert cache.get(urls[1]).read_bytes() == (root / "shard-0001.tar").read_bytes()
    assert server.answered["shard-0000.tar"] == 1
    assert server.answered["shard-0001.tar"] == 2
    tiny = ShardCache(tmp_path / "tiny", 10)
    assert tiny.get(urls[0]).exists()
    tiny.get(urls[1])
    assert [tiny.file(url).exists() for url in urls[:2]] == [False, True]
    # What a killed process left is removed once it is old.
    part = tiny.folder / ".part-1-1"
    part.write_bytes(b"x")
    tiny.get(urls[2])
    assert part.exists()
    os.utime(part, (1, 1))
    tiny.get(urls[3])
    assert not part.exists()


def test_a_dropped_shard_is_downloaded_again_when_read(
    served: tuple[Server, Path], settings: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = served
    data = settings("list.json", cache_gib=1e-6, test_fraction=0.001)  # less than one shard
    dataset = build_dataset(data)
    expected = list(loader(dataset, settings("list.json")).batches(0, 4))
    seen = list(loader(dataset, data).batches(0, 4))
    assert all(torch.equal(a.images, b.images) for a, b in zip(expected, seen, strict=True))
    assert not dataset.bad_files
    assert "shards in use are dropped and downloaded again; raise data.cache_gib" in caplog.text
    assert max(server.answered.values()) > 1


def _get(folder: Path, urls: list[str], limit: int) -> None:
    cache = ShardCache(folder, limit)
    for url in urls:
        cache.get(url)


@pytest.mark.skipif(FORK is None, reason="processes are forked")
def test_processes_share_downloads(served: tuple[Server, Path], tmp_path: Path) -> None:
    server, root = served
    server.pause = 0.1
    urls = [f"{server.address}/shard-000{n}.tar" for n in range(4)]
    workers = [FORK.Process(target=_get, args=(tmp_path / "cache", urls, 10**9)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [server.answered[Path(url).name] for url in urls] == [1, 1, 1, 1]
    for url in urls:
        assert ShardCache(tmp_path / "cache", 1).file(url).read_bytes() == (root / Path(url).name).read_bytes()


def test_temporary_errors_are_retried(served: tuple[Server, Path], tmp_path: Path) -> None:
    server, root = served
    server.fail = lambda _, times: {1: 503, 2: -1, 3: None}[times]
    file = ShardCache(tmp_path / "cache", 10**9).get(f"{server.address}/shard-0000.tar")
    assert file.read_bytes() == (root / "shard-0000.tar").read_bytes()
    assert server.answered["shard-0000.tar"] == 3
    assert [f.name for f in file.parent.iterdir() if not f.name.startswith(".lock")] == [file.name]


def test_failed_downloads_are_one_line_errors(served: tuple[Server, Path], settings: Make, tmp_path: Path) -> None:
    server, _ = served
    with pytest.raises(DataError, match=r"http://.*/none\.tar: the shard cannot be downloaded: HTTP 404") as caught:
        build_dataset(settings("none.tar"))
    assert "\n" not in str(caught.value)
    assert server.answered["none.tar"] == 1  # not there: asking again is no use
    with pytest.raises(DataError, match=r"none\.json cannot be downloaded: HTTP 404"):
        build_dataset(settings("none.json"))
    with pytest.raises(DataError, match=r"has not been downloaded, and data\.download=false"):
        build_dataset(settings("shard-0000.tar", download=False))
    server.fail = lambda *_: -1
    cache = ShardCache(tmp_path / "cache", 10**9)
    for _ in range(2):
        with pytest.raises(FetchError, match=r"cannot be downloaded: received \d+ of \d+ bytes"):
            cache.get(f"{server.address}/shard-0001.tar")
    assert server.answered["shard-0001.tar"] == 4  # the second time it was known
    with pytest.raises(DataError, match=r"cannot be downloaded: .*refused"):
        build_dataset(DataConfig(dataset="webdataset", data_path="http://127.0.0.1:9/a.tar", cache_dir=tmp_path / "c"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_disappears_is_skipped_and_counted_or_stops(
    workers: int, served: tuple[Server, Path], settings: Make
) -> None:
    server, _ = served
    data = settings("list.json", num_workers=workers, test_fraction=0.001)
    dataset = build_dataset(data)
    strict = build_dataset(data.model_copy(update={"bad_images": "stop"}))
    for file in (data.cache_dir / "shards").glob("*-shard-0003.tar"):
        file.unlink()
    server.fail = lambda path, _: 404 if path == "shard-0003.tar" else None
    batches = loader(dataset, data)
    seen = torch.cat([batch.indices for batch in batches.batches(0, batches.steps_per_epoch)])
    assert not any(dataset.identifiers[row].startswith("shard-0003") for row in seen.tolist())
    assert len(seen) == 8 * batches.steps_per_epoch
    assert {bad.reason for bad in dataset.bad_files} == {"the shard cannot be downloaded: HTTP 404 Not Found"}
    stop = data.model_copy(update={"bad_images": "stop"})
    with pytest.raises(DataError, match=r"bad_images=stop: 1 file cannot be read: shard-0003\.tar!") as caught:
        list(loader(strict, stop).batches(0, batches.steps_per_epoch))
    assert "\n" not in str(caught.value)
    # All of them gone, as when the network is: the run ends rather than go on with nothing.
    for file in (data.cache_dir / "shards").glob("*.tar"):
        file.unlink()
    server.fail = lambda *_: 404
    with pytest.raises(DataError, match=r"too many consecutive files cannot be read .* HTTP 404"):
        list(loader(dataset, data).batches(0, 1))


def test_statistics_and_online_images_use_few_shards(tmp_path: Path) -> None:
    import numpy as np

    from hjepa.data.dataset import Shards

    numbers = np.repeat(np.arange(100), 50)
    order = np.random.default_rng(0).permutation(len(numbers))
    everywhere = Shards(numbers, fetched=False).first(order, 300)
    few = Shards(numbers, fetched=True).first(order, 300)
    assert np.array_equal(everywhere, order[:300])
    assert len(few) == 300
    assert len(set(few.tolist())) == 300
    assert len(set(numbers[few].tolist())) == 8
    more = Shards(numbers, fetched=True).first(order, 1001)
    assert (len(more), len(set(numbers[more].tolist()))) == (1001, 21)


def test_statistics_of_a_remote_set(served: tuple[Server, Path], settings: Make) -> None:
    mean, _ = measure_statistics(build_dataset(settings("list.json")), 0)
    assert all(0.3 < value < 0.7 for value in mean)
