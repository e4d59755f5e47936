"""Keys that no longer exist: dropped from older configurations, with a warning if they had been changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

log = logging.getLogger("hjepa")


class _Removed(NamedTuple):
    default: Any
    """The former default, which every saved configuration of that time contains."""
    instead: str


REMOVED = {
    "data.worker_timeout": _Removed(300.0, "a worker that sends no batch for ten minutes ends the run with an error"),
    "data.worker_restarts": _Removed(
        3,
        "a worker that dies or stalls ends the run with an error; `--resume auto` continues from the last checkpoint",
    ),
}


def drop_removed(tree: dict[str, Any], place: Callable[[str], str]) -> None:
    """Delete removed keys from a configuration; warn about those that differ from their former default.

    Args:
        tree: sections by name; changed in place.
        place: where the value of a key comes from, for the message; empty if it was given as an override.
    """
    for key, removed in REMOVED.items():
        section, _, name = key.partition(".")
        keys = tree.get(section)
        if not isinstance(keys, dict) or name not in keys:
            continue
        if keys.pop(name) != removed.default:
            log.warning("%s no longer has any effect%s: %s; remove the key", key, place(key), removed.instead)
