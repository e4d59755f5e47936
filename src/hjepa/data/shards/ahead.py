"""Fetching shards before they are read, beside training."""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterable

from hjepa.data.shards.blobs import ShardBlobs

log = logging.getLogger("hjepa")

_THREADS = 2
# Shards that were asked for so long ago may have been dropped since, and are asked for again.
_REMEMBERED = 256


class Ahead:
    """Threads that fetch shards in the order in which they are asked for.

    A shard that cannot be fetched is said here and otherwise left to whoever reads from it.

    Args:
        blobs: the shards.
    """

    def __init__(self, blobs: ShardBlobs) -> None:
        self._blobs = blobs
        self._asked: OrderedDict[int, None] = OrderedDict()
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def want(self, numbers: Iterable[int]) -> None:
        """Ask for shards; returns at once."""
        for number in numbers:
            if number in self._asked:
                continue
            self._asked[number] = None
            if len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
            self._queue.put(number)
        if not self._threads:
            # Daemons: the program need not wait for them when it ends.
            self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_THREADS)]
            for thread in self._threads:
                thread.start()

    def _work(self) -> None:
        while True:
            number = self._queue.get()
            try:
                self._blobs.fetch(number)
            except OSError as error:
                log.warning("%s: the shard %s", self._blobs.shards[number].name, error.strerror)
