"""Recognise checkpoints of other programs by the names they hold, without executing code from the file."""

from __future__ import annotations

import json
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

# Names read at most; all names of a real checkpoint come earlier.
_MOST_NAMES = 20_000
_LARGEST_HEADER = 1 << 26
_SHOWN = 4
_LONG = 60
# Entries of hjepa's own checkpoints.
_OWN = {"format_version", "model_state_dict", "config"}


class _Kind(NamedTuple):
    name: str
    matches: Callable[[set[str]], bool]


def _ends(names: set[str], end: str) -> bool:
    return any(name.endswith(end) for name in names)


# The first match counts; each is recognised by entries that the others lack.
_KINDS = (
    _Kind("I-JEPA or V-JEPA", lambda n: {"encoder", "target_encoder"} <= n),
    _Kind("DINO or iBOT", lambda n: {"student", "teacher"} <= n),
    _Kind("PyTorch Lightning", lambda n: "pytorch-lightning_version" in n),
    _Kind("MoCo", lambda n: any(".base_encoder." in f".{name}" or "encoder_q." in name for name in n)),
    _Kind("MAE", lambda n: _ends(n, "decoder_pos_embed") or ({"model", "args"} <= n and _ends(n, "cls_token"))),
    _Kind("DINOv2 or DINOv3", lambda n: _ends(n, "register_tokens") or _ends(n, "storage_tokens")),
    _Kind("CLIP", lambda n: _ends(n, "logit_scale") and _ends(n, "text_projection")),
    _Kind("transformers", lambda n: _ends(n, "attention.attention.query.weight")),
    _Kind("timm (a vision transformer)", lambda n: _ends(n, "blocks.0.attn.qkv.weight") or _ends(n, "cls_token")),
    _Kind("torchvision or timm (a ResNet)", lambda n: _ends(n, "layer1.0.conv1.weight")),
)


def describe_foreign(path: Path) -> str | None:
    """Describe a file of another program: ``that seems to be of MAE (it holds model, args)``.

    Args:
        path: a file that is not an hjepa checkpoint.

    Returns:
        words to follow "a file"; None if it is an hjepa file, holds no weights, or is damaged.
    """
    names = list(dict.fromkeys(_names(path)))
    known = set(names)
    if not names or known >= _OWN:
        return None
    kind = next((kind.name for kind in _KINDS if kind.matches(known)), None)
    seems = "of another program" if kind is None else f"that seems to be of {kind}"
    shown = [name for name in names if name.isprintable() and len(name) < _LONG]
    return f"{seems} (it holds {', '.join(shown[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"


def _names(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            start = file.read(9)
            file.seek(0)
            if start[:4] == b"PK\x03\x04":
                yield from _of_archive(file)
            elif start[:1] == b"\x80":
                yield from _of_pickles(file)
            elif start[8:9] == b"{":
                yield from _of_safetensors(file)
    except Exception:
        return  # on arbitrary bytes these readers may raise anything


def _of_archive(file: BinaryIO) -> Iterator[str]:
    with zipfile.ZipFile(file) as archive:
        entry = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if entry is not None:
            with archive.open(entry) as pickled:
                yield from _of_pickle(pickled.read(_LARGEST_HEADER))


def _of_pickles(file: BinaryIO) -> Iterator[str]:
    """Files of old PyTorch versions are four pickles: magic number, version, system info, and the object."""
    for number in range(4):
        names: list[str] = []
        for operation, argument, _ in pickletools.genops(file):
            if number == 3 and operation.name in _TEXTS and len(names) < _MOST_NAMES:
                names.append(str(argument))
        yield from _without_types(names)


def _of_pickle(data: bytes) -> Iterator[str]:
    texts = (str(argument) for operation, argument, _ in pickletools.genops(data) if operation.name in _TEXTS)
    yield from _without_types(list(texts))


_TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINUNICODE8")


def _without_types(texts: list[str]) -> Iterator[str]:
    # Every tensor adds the strings of its storage: `storage`, a number, a device.
    skipped = {"storage", "cpu", "cuda", "cuda:0", "torch", "torch._utils"}
    yield from (text for text in texts if text not in skipped and not text.isdecimal())


def _of_safetensors(file: BinaryIO) -> Iterator[str]:
    length = int.from_bytes(file.read(8), "little")
    if length <= _LARGEST_HEADER:
        yield from (name for name in json.loads(file.read(length)) if name != "__metadata__")
