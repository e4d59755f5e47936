"""Sharded checkpoints: every process writes its own part of the weights, and any number of processes can read them.

A sharded checkpoint is a folder. Its tensors are in safetensors files, written and read by
``torch.distributed.checkpoint``; everything else is in ``state.pth``, an ordinary sealed checkpoint file that also
holds the digest of every shard. Reading executes no code from the folder, and checks digests before it parses a shard.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from hjepa.errors import CheckpointError, UserError
from hjepa.runs.checkpoint import read_checkpoint, require_space, save_checkpoint, sync_folder, tensor_bytes
from hjepa.runtime import distribution
from hjepa.runtime.dtensor import local_part

# Importing ``torch.distributed.checkpoint`` takes seconds, so it is imported where it is used.
if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata


class _Optimizer(Protocol):
    """The part of the optimiser interface that is used here."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


SUFFIX = ".sharded"
STATE = "state.pth"

_WRITING, _OLD = "writing", "old"
_BLOCK = 1 << 22


# -- writing ---------------------------------------------------------------------------------------------------------


def save_sharded(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically, all processes together: to a temporary folder, flushed to disk, then renamed.

    Args:
        path: the folder; the same in every process, on a file system that all of them share.
        state: as for `save_checkpoint`; tensors of the model and the optimiser may be sharded.

    Raises:
        UserError: in every process, if the disk is full or not writable; an older folder at ``path`` is left unchanged.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    tensors, rest = _take_apart(state)
    temporary = _beside(path, _WRITING)
    needed = sum(distribution.from_all(tensor_bytes({name: local_part(t) for name, t in tensors.items()})))

    def prepare() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        require_space(path.parent, needed, path)
        temporary.mkdir(parents=True)

    def finish() -> None:
        save_checkpoint(temporary / STATE, rest | {"shards": digests})
        _put_in_place(temporary, path)

    digests: dict[str, str] = {}
    with _explained(path):
        distribution.by_main(prepare)
        writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        save(tensors, storage_writer=writer, process_group=distribution.control_group())
        distribution.barrier()
        for part in distribution.from_all(_seal_own(temporary)):
            digests |= part
        distribution.by_main(finish)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors of writing into a one-line `UserError`."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (OSError, CheckpointException) as error:
        text = str(error).strip().splitlines()
        reason = text[-1][:160] if text else type(error).__name__
        raise UserError(
            f"{path}: the checkpoint cannot be written ({reason}); free some space or choose another folder"
        ) from None


def _take_apart(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a state into large tensors by name and everything else."""
    optimizer = state["optimizer_state_dict"]
    tensors = {f"model.{name}": value for name, value in state["model_state_dict"].items()}
    small: dict[int, dict[str, Any]] = {}
    for index, moments in optimizer["state"].items():
        small[index] = {}
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.ndim:
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                small[index][name] = value
    rest = state | {"model_state_dict": {}, "optimizer_state_dict": optimizer | {"state": small}}
    return tensors, rest


def _seal_own(folder: Path) -> dict[str, str]:
    """Flush this process's share of the files to disk. Returns their digests by name."""
    files = sorted(folder.glob("*.safetensors"))
    own = files[distribution.rank() :: distribution.size()]
    for file in own:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    return {file.name: _digest(file) for file in own}


def _digest(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=32)
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def copy_sharded(source: Path, path: Path) -> None:
    """Copy a checkpoint atomically; called in one process.

    Raises:
        UserError: the disk is full or not writable; an older folder at ``path`` is left unchanged.
    """
    temporary = _beside(path, _WRITING)
    with _explained(path):
        shutil.rmtree(temporary, ignore_errors=True)
        require_space(path.parent, sum(file.stat().st_size for file in source.iterdir()), path)
        shutil.copytree(source, temporary)
        for file in temporary.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        _put_in_place(temporary, path)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Replace ``path``. A crash between the two renames leaves no folder; `settle_leftovers` recovers it."""
    old = _beside(path, _OLD)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def settle_leftovers(folder: Path) -> None:
    """Clean up after a process that was killed while saving. Call only while the folder is locked."""
    for old in folder.glob(f".*{SUFFIX}.{_OLD}"):
        place = old.with_name(old.name.removeprefix(".").removesuffix(f".{_OLD}"))
        if place.exists():
            shutil.rmtree(old)
        else:
            old.rename(place)  # killed between the two renames
    for half in folder.glob(f".*{SUFFIX}.{_WRITING}"):
        shutil.rmtree(half)


# -- reading ---------------------------------------------------------------------------------------------------------


def read_sharded(path: Path, *, tensors: bool = True, verify: bool = True) -> dict[str, Any]:
    """Read a sharded checkpoint in one process.

    Args:
        path: the folder.
        tensors: read the whole tensors; otherwise weights and optimiser moments are left to `load_shards`.
        verify: check digests, which reads every byte.

    Returns:
        as `read_checkpoint`, with the digests under `shards`.

    Raises:
        CheckpointError: not a checkpoint, or a shard is missing or damaged.
    """
    state = read_checkpoint(path / STATE)
    for name, digest in state["shards"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{path}: damaged (the shard {name} is missing); use another one")
        if verify and _digest(file) != digest:
            raise CheckpointError(f"{path}: damaged (the content of {name} does not match its digest); use another one")
    if not tensors:
        return state
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(path))
    whole = {name: torch.empty(meta.size, dtype=meta.properties.dtype) for name, meta in _stored(path).items()}
    with warnings.catch_warnings():
        # PyTorch warns that it loads in a single process, which is intended.
        warnings.simplefilter("ignore", UserWarning)
        load(whole, storage_reader=reader, no_dist=True)
    for name, value in whole.items():
        kind, _, rest = name.partition(".")
        if kind == "model":
            state["model_state_dict"][rest] = value
        else:
            index, _, moment = rest.partition(".")
            state["optimizer_state_dict"]["state"][int(index)][moment] = value
    return state


def _stored(path: Path) -> dict[str, TensorStorageMetadata]:
    """Sizes and types of the tensors in the shards."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    metadata = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    return {name: meta for name, meta in metadata.items() if isinstance(meta, TensorStorageMetadata)}


def load_shards(path: Path, state: dict[str, Any], model: nn.Module, optimizer: _Optimizer) -> None:
    """Load a sharded checkpoint into a sharded model and its optimiser, at any number of processes.

    Each process reads only its own part. All processes must call it.

    Args:
        path: the folder.
        state: result of `read_sharded` without tensors.
        model, optimizer: sharded by `fully_shard`.

    Raises:
        CheckpointError: names or shapes differ from those of the configured model.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    wanted = {f"model.{name}": value for name, value in model.state_dict().items()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    small = state["optimizer_state_dict"]["state"]
    moments: dict[int, dict[str, Tensor]] = {}
    there = _stored(path)
    for name in there:
        if name.startswith("optimizer."):
            _, index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = torch.zeros_like(parameters[int(index)])
    wanted |= {f"optimizer.{i}.{moment}": v for i, own in moments.items() for moment, v in own.items()}
    for name in sorted(wanted.keys() ^ there.keys()):
        lacks = "the configured model" if name in there else "the checkpoint"
        raise CheckpointError(f"{path}: {lacks} has no {name}; the configuration describes another model")
    for name, value in wanted.items():
        if tuple(value.shape) != tuple(there[name].size):
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(there[name].size)}, but the configuration expects {tuple(value.shape)}"
            )
    with torch.no_grad():
        load(wanted, storage_reader=HuggingFaceStorageReader(str(path)), process_group=distribution.control_group())
    optimizer.load_state_dict(
        state["optimizer_state_dict"]
        | {"state": {index: values | moments.get(index, {}) for index, values in small.items()}}
    )
