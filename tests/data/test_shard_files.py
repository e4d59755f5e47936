"""Tar files: samples, damage, and the stored index."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from tests.data.image_files import encode, noise
from tests.data.shard_files import write_tar

from hjepa.data.shards.blobs import Shard, ShardBlobs, ShardNames
from hjepa.data.shards.index import IndexStore
from hjepa.data.shards.tar import scan_tar, split_name

PICTURES = [encode(noise(index)) for index in range(6)]


def shard(file: Path) -> Path:
    return write_tar(
        file,
        [
            ("a/0.cls", b"7\n"),
            ("a/0.PNG", PICTURES[0]),
            ("a/1.png", PICTURES[1]),
            ("a/1.json", json.dumps({"label": "cat", "width": 16}).encode()),
            ("__info__.json", b"{}"),
            ("2.txt", b"no image"),
            ("3.left.png", PICTURES[3]),
            ("3.right.png", PICTURES[2]),
            ("3.json", b"{broken"),
            ("x" * 120 + "/4.png", PICTURES[4]),  # a name that needs a header of its own
        ],
    )


def blobs(file: Path, count: int, store: Path) -> ShardBlobs:
    return ShardBlobs([Shard(file.name, file)], [count], IndexStore(store), None)


def test_samples_are_files_that_share_a_key(tmp_path: Path) -> None:
    file = shard(tmp_path / "s.tar")
    index = scan_tar(file)
    assert index.keys == ["a/0", "a/1", "2", "3", "x" * 120 + "/4"]
    assert index.labels == ["7", "cat", "", "", ""]
    assert index.damage == ""
    assert (index.sizes >= 0).tolist() == [True, True, False, True, True]
    read = blobs(file, 5, tmp_path / "store")
    assert [read.load(i) for i in (0, 1, 3, 4)] == [PICTURES[i] for i in (0, 1, 3, 4)]
    with pytest.raises(OSError, match="the sample has no image file"):
        read.load(2)
    assert list(ShardNames(read))[1:3] == ["s.tar!a/1", "s.tar!2"]
    assert list(ShardNames(read).choose(np.array([3, 0]))) == ["s.tar!3", "s.tar!a/0"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.b/c.jpg", ("a.b/c", "jpg")),
        ("c.SEG.Png", ("c", "seg.png")),
        ("noextension", ("", "")),
        (".hidden", ("", "")),
        ("__index__.json", ("", "")),
    ],
)
def test_file_names_are_split_into_key_and_extension(name: str, parts: tuple[str, str]) -> None:
    assert split_name(name) == parts


def test_a_truncated_shard_keeps_its_complete_samples(tmp_path: Path) -> None:
    whole = shard(tmp_path / "s.tar").read_bytes()
    index = scan_tar(tmp_path / "s.tar")
    ends = index.offsets + index.sizes
    last = int(ends[4])
    # The archive ends with blocks of zeros, so not every cut is a loss.
    for length in [0, 1, 100, 511, 512, 700, *range(900, last, 397), last - 1]:
        cut = tmp_path / f"cut{length}.tar"
        cut.write_bytes(whole[:length])
        found = scan_tar(cut)
        assert found.damage, length
        assert found.keys == index.keys[: len(found)]
        read = blobs(cut, len(found), tmp_path / "store")
        for row in np.flatnonzero(found.sizes >= 0).tolist():
            if ends[row] <= length:
                assert read.load(row) == PICTURES[row]
            else:
                with pytest.raises(OSError, match="truncated: the shard ends within the image"):
                    read.load(row)
        # No whole image is missed.
        assert int(np.sum((index.sizes >= 0) & (ends + 512 <= length))) <= int(np.sum(found.sizes >= 0))


def test_a_damaged_header_is_detected_at_any_position(tmp_path: Path) -> None:
    whole = bytearray(shard(tmp_path / "s.tar").read_bytes())
    index = scan_tar(tmp_path / "s.tar")
    for row in (0, 1, 3):
        broken = bytearray(whole)
        broken[int(index.offsets[row]) - 512 + 148 : int(index.offsets[row]) - 512 + 156] = b"zzzzzzzz"  # its checksum
        (tmp_path / "broken.tar").write_bytes(broken)
        found = scan_tar(tmp_path / "broken.tar")
        assert found.damage
        assert len(found) <= row + 1


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (b"", "empty file"),
        (gzip.compress(b"x" * 2000), "compressed with gzip"),
        (b"this is text " * 100, "."),
        (b"<html>" + b"\xff" * 5000, "."),
    ],
    ids=["empty", "gzip", "text", "bytes"],
)
def test_files_that_are_not_tar_are_reported(content: bytes, damage: str, tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(content)
    found = scan_tar(tmp_path / "s.tar")
    assert len(found) == 0
    assert damage in found.damage or (damage == "." and found.damage)
    assert "\n" not in found.damage


def test_an_index_is_kept_until_the_file_changes(tmp_path: Path) -> None:
    file = shard(tmp_path / "s.tar")
    store = IndexStore(tmp_path / "store")
    first = store.of(file)
    status = file.stat()
    # Other content of the same size and time: only who reads the file again would see it.
    file.write_bytes(b"\0" * status.st_size)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    kept = store.of(file)
    assert kept.keys == first.keys
    assert kept.labels == first.labels
    assert np.array_equal(kept.offsets, first.offsets)
    assert np.array_equal(kept.sizes, first.sizes)
    shard(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    assert len(store.of(file)) == 5
    write_tar(file, [("only.png", PICTURES[0])])
    assert store.of(file).keys == ["only"]
    # A damaged index is none.
    (stored,) = (tmp_path / "store").glob("*.npz")
    stored.write_bytes(stored.read_bytes()[:100])
    assert store.of(file).keys == ["only"]
    stored.write_bytes(b"")
    assert store.of(file).keys == ["only"]


def test_an_index_of_an_empty_shard(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "s.tar", [])
    for _ in range(2):
        index = IndexStore(tmp_path / "store").of(file)
        assert (index.keys, index.labels, index.damage, len(index.offsets)) == ([], [], "", 0)


def test_shards_are_read_if_no_index_can_be_stored(tmp_path: Path) -> None:
    file = shard(tmp_path / "s.tar")
    (tmp_path / "file").write_text("in the way")
    assert len(IndexStore(tmp_path / "file" / "store").of(file)) == 5


def test_a_shard_replaced_during_reading_is_indexed_again(tmp_path: Path) -> None:
    file = shard(tmp_path / "s.tar")
    read = blobs(file, 5, tmp_path / "store")
    assert read.load(4) == PICTURES[4]
    write_tar(file, [(f"{index}.png", PICTURES[5 - index]) for index in range(3)])
    assert read.load(0) == PICTURES[5]
    with pytest.raises(OSError, match="has 3 samples, but the list says 5"):
        read.load(4)
