"""Download shards in the background before they are read."""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterable

from hjepa.data.shards.blobs import ShardBlobs

log = logging.getLogger("hjepa")

_THREADS = 2
# Number of recent requests to remember; a shard requested earlier may have been dropped and is requested again.
_REMEMBERED = 256


class Ahead:
    """Background threads that download shards in the order of request.

    A failed download is logged; reading from the shard tries again and raises the error.

    Args:
        blobs: the shards.
    """

    def __init__(self, blobs: ShardBlobs) -> None:
        self._blobs = blobs
        self._asked: OrderedDict[int, None] = OrderedDict()
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def want(self, numbers: Iterable[int]) -> None:
        """Request shards by number; returns immediately."""
        for number in numbers:
            if number in self._asked:
                continue
            self._asked[number] = None
            if len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
            self._queue.put(number)
        if not self._threads:
            # Daemons, so that the program does not wait for them when it ends.
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
