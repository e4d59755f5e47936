"""Keys that older configurations name and nothing reads any more: they are dropped, and said where they were set."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

log = logging.getLogger("hjepa")


class _Removed(NamedTuple):
    default: Any
    """What every configuration that was written out held, set or not."""
    instead: str


REMOVED = {
    "data.worker_timeout": _Removed(300.0, "workers that send no batch for ten minutes end the run with one line"),
    "data.worker_restarts": _Removed(
        3,
        "a worker that dies or stalls ends the run with one line, and `--resume auto` goes on from the last checkpoint",
    ),
}


def drop_removed(tree: dict[str, Any], origin: str) -> None:
    """Take removed keys out of a configuration, with a warning for those that had been given another value.

    Args:
        tree: sections by name; changed in place.
        origin: of the configuration, for the message.
    """
    where = f" (in {origin})" if origin else ""
    for key, removed in REMOVED.items():
        section, _, name = key.partition(".")
        keys = tree.get(section)
        if not isinstance(keys, dict) or name not in keys:
            continue
        if keys.pop(name) != removed.default:
            log.warning("%s has no effect any more%s: %s; remove the key", key, where, removed.instead)
