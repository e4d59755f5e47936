"""Checkpoint files: written atomically, sealed with a digest, and read without executing code.

A checkpoint is a PyTorch file (a ZIP archive) of tensors and plain values. The archive's comment holds a header in JSON
(format, step, run) and, as the last 64 bytes of the file, the BLAKE2b digest of every byte before them in hexadecimal.
Any PyTorch program reads the file with ``torch.load(weights_only=True)``; this module checks the digest first, so that
a damaged file is never parsed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from hjepa.errors import CheckpointError, UserError
from hjepa.runs.foreign import describe_foreign

FORMAT_VERSION = 2

_MAGIC = b"hjepa checkpoint "
_DIGEST_LENGTH = 64
# The end record of a ZIP archive: its signature, 16 bytes, and the length of the comment that follows.
_END_RECORD = 22
_END_SIGNATURE = b"PK\x05\x06"
_BLOCK = 1 << 20
# Bytes at the end of the file to search for the header, which is far shorter.
_TAIL = 4096
_MARGIN = 1 << 20
_REQUIRED = ("format_version", "epoch", "step", "loss", "model_state_dict", "optimizer_state_dict", "config", "data")


@dataclass(frozen=True)
class Header:
    """Header of a checkpoint file, readable without reading the rest.

    Attributes:
        format: version of the file format.
        step: optimiser steps done.
        run: identity of the run that wrote it; empty if unknown.
    """

    format: int
    step: int
    run: str


# -- writing ---------------------------------------------------------------------------------------------------------


class _Sealing:
    """Writes to a file, computes the digest, and holds back the archive's end record until the header is known."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.blake2b(digest_size=_DIGEST_LENGTH // 2)
        self._held = b""

    def write(self, data: bytes | memoryview) -> int:
        """Write bytes, holding back the last few."""
        view = memoryview(data).cast("B")
        if len(view) >= _END_RECORD:
            self._pass_on(self._held)
            self._pass_on(view[:-_END_RECORD])
            self._held = bytes(view[-_END_RECORD:])
        else:
            joined = self._held + bytes(view)
            self._pass_on(joined[:-_END_RECORD])
            self._held = joined[-_END_RECORD:]
        return len(view)

    def flush(self) -> None:
        """Nothing to do; `torch.save` expects the method."""

    def seal(self, header: Header) -> None:
        """Write the end record with the header and the digest as its comment."""
        text = _MAGIC + json.dumps({"format": header.format, "step": header.step, "run": header.run}).encode() + b"\n"
        if not self._held.startswith(_END_SIGNATURE) or self._held[-2:] != b"\0\0":
            raise RuntimeError("torch.save wrote an archive with a comment of its own")
        length = (len(text) + _DIGEST_LENGTH).to_bytes(2, "little")
        self._pass_on(self._held[:-2] + length + text)
        self._file.write(self._digest.hexdigest().encode())

    def _pass_on(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: to a temporary file, flushed to disk, then renamed.

    Args:
        path: destination.
        state: tensors and plain Python values only, so that ``torch.load(weights_only=True)`` can read it.

    Raises:
        UserError: the disk is full or not writable; an older file at ``path`` is left unchanged.
    """

    def fill(file: BinaryIO) -> None:
        sealing = _Sealing(file)
        # `torch.save` uses no methods but write and flush.
        torch.save({"format_version": FORMAT_VERSION, **state}, cast("BinaryIO", sealing))
        sealing.seal(Header(FORMAT_VERSION, int(state.get("step", 0)), str(state.get("run", ""))))

    _replace(path, fill, tensor_bytes(state))


def copy_checkpoint(source: Path, path: Path) -> None:
    """Copy a checkpoint atomically, like `save_checkpoint`.

    Raises:
        UserError: the disk is full or not writable; an older file at ``path`` is left unchanged.
    """

    def fill(file: BinaryIO) -> None:
        with source.open("rb") as original:
            shutil.copyfileobj(original, file, _BLOCK)

    _replace(path, fill, source.stat().st_size)


def _replace(path: Path, fill: Callable[[BinaryIO], None], size: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        require_space(path.parent, size, path)
        with temporary.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path}: the checkpoint cannot be written ({reason}); free some space or choose another folder"
        ) from None


def require_space(folder: Path, size: int, what: Path) -> None:
    """Raise `UserError` if a folder's disk has less than ``size`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size + _MARGIN:
        raise UserError(
            f"{what}: needs {size / 1e6:.1f} MB, but only {free / 1e6:.1f} MB are free; free some space or choose another "
            "folder"
        )


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk; otherwise a power cut may undo a rename."""
    if os.name == "nt":
        return  # Windows cannot open folders; its file system journals renames.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of a process that was killed while saving. Call only while the folder is locked."""
    for file in folder.glob(".*.pth.*"):
        file.unlink(missing_ok=True)


def snapshot(state: Any) -> Any:
    """Copy a tree with every tensor in main memory, so that training can continue while it is written."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(snapshot(value) for value in state)
    return state


def tensor_bytes(state: Any) -> int:
    """Bytes of all tensors in a tree."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(tensor_bytes(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(tensor_bytes(value) for value in state)
    return 0


# -- reading ---------------------------------------------------------------------------------------------------------


def read_header(path: Path) -> Header | None:
    """The header of a checkpoint, not checked against the digest; None if there is none (format 1)."""
    try:
        with path.open("rb") as file:
            return _header(file)
    except OSError:
        return None


def _header(file: BinaryIO) -> Header | None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    start = tail.rfind(_MAGIC)
    if start < 0:
        return None
    try:
        told = json.loads(tail[start + len(_MAGIC) : -_DIGEST_LENGTH])
        return Header(int(told["format"]), int(told["step"]), str(told["run"]))
    except (ValueError, KeyError, TypeError):
        return None


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint and check it against its digest. Executes no code from the file.

    Files of older formats are converted to the current one.

    Raises:
        CheckpointError: the file does not exist, is damaged, or was written by another program.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; give a .pth file or a run folder")
    try:
        with path.open("rb") as file:
            problem, sealed = _check(file)
            if problem:
                raise _foreign(path) or CheckpointError(f"{path}: {problem}; use {_other(path)}")
            file.seek(0)
            state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    except CheckpointError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        # On arbitrary bytes the ZIP and pickle readers may raise anything.
        raise _foreign(path) or CheckpointError(
            f"{path}: damaged, or not a checkpoint ({type(error).__name__}); use {_other(path)}"
        ) from None
    missing = [key for key in _REQUIRED if not isinstance(state, dict) or key not in state]
    if missing:
        raise _foreign(path) or CheckpointError(
            f"{path}: not an hjepa checkpoint (no {', '.join(missing)}); use {_other(path)}"
        )
    version = state["format_version"]
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written by a newer version of hjepa (format {version}, this one reads up to {FORMAT_VERSION}); "
            "upgrade hjepa"
        )
    if version > 1 and not sealed:
        raise CheckpointError(f"{path}: damaged (its digest is missing); use {_other(path)}")
    while state["format_version"] < FORMAT_VERSION:
        state = _MIGRATIONS[state["format_version"]](state)
    return state


def _foreign(path: Path) -> CheckpointError | None:
    """The error for a file that another program wrote; None for files of this program and unrecognised ones."""
    seems = None if read_header(path) is not None else describe_foreign(path)
    if seems is None:
        return None
    # In a run folder a checkpoint of the run is what was meant.
    other = _neighbour(path)
    todo = f"use another one, for example {other}" if other else "give one of those, or pretrain with `hjepa train`"
    return CheckpointError(f"{path}: a file {seems}; only hjepa checkpoints and packed encoders can be read; {todo}")


def _check(file: BinaryIO) -> tuple[str | None, bool]:
    """What is wrong with a file (None if nothing), and whether it was sealed with a digest."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return "empty (0 bytes)", False
    if _header(file) is not None:
        return (None if _digest_matches(file, size) else "damaged (its content does not match its digest)"), True
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        return "damaged, or not a checkpoint (not a PyTorch file)", False
    # Files of format 1 have no digest, but the archive has a checksum for every entry, which PyTorch does not check.
    with zipfile.ZipFile(file) as archive:
        broken = archive.testzip()
    return (None if broken is None else f"damaged (checksum of {broken} does not match)"), False


def _digest_matches(file: BinaryIO, size: int) -> bool:
    digest = hashlib.blake2b(digest_size=_DIGEST_LENGTH // 2)
    file.seek(0)
    left = size - _DIGEST_LENGTH
    while left > 0:
        block = file.read(min(_BLOCK, left))
        if not block:
            return False
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode() == file.read()


def _from_format_1(state: dict[str, Any]) -> dict[str, Any]:
    """Format 1 stored neither the run's identity nor the sums of the current logging interval; both start empty."""
    settings = state["config"]
    micro = {
        "batch_size": settings["data"]["batch_size"],
        "accumulation_steps": settings["training"]["accumulation_steps"],
    }
    return {**state, "format_version": 2, "run": "", "interval": None, "skipped_in_a_row": 0, "micro_batch": micro}


# Converts each older format to the next one.
_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_format_1}


def _other(path: Path) -> str:
    other = _neighbour(path)
    return f"another one, for example {other}" if other else "another one"


def _neighbour(path: Path) -> Path | None:
    """The newest checkpoint of this program that lies beside a file."""
    others = (p for p in path.parent.glob("*.pth") if p != path and not p.name.startswith("."))
    return max((p for p in others if read_header(p) is not None), key=lambda p: p.stat().st_mtime, default=None)
