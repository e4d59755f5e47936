"""Shards from the web, kept whole in a folder of bounded size that processes share."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import logging
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from hjepa.runtime.file_lock import exclusive

log = logging.getLogger("hjepa")

_TRIES = 4
_FIRST_PAUSE = 0.5
# Seconds without a byte after which a server counts as silent.
_SILENCE = 60.0
# A shard that could not be had is not asked for again for so many seconds: each of its images would wait for it.
_GRUDGE = 60.0
# Parts older than this belong to processes that have died.
_STALE = 3600.0
# A shard that was used so recently is being read.
_IN_USE = 10.0
_STRIPES = 64


class FetchError(OSError):
    """An address that cannot be fetched; the message is the reason in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(None, reason)


class ShardCache:
    """Files by web address, fetched when they are first asked for and dropped, least recently used first.

    Any number of processes and threads may share the folder: each file is fetched by one of them while the others that
    want it wait, and appears whole or not at all.

    Args:
        folder: made when the first file is fetched.
        limit: bytes that the files may take together. The newest stays even if it alone is larger.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._failed: dict[str, tuple[float, str]] = {}
        self._warned = False

    def file(self, url: str) -> Path:
        """Where an address's file is or will be."""
        name = PurePosixPath(urlsplit(url).path).name or "shard"
        return self.folder / f"{hashlib.blake2b(url.encode(), digest_size=12).hexdigest()}-{name}"

    def get(self, url: str) -> Path:
        """The file of an address, fetched if it is not here. It may be dropped again at any time later.

        Raises:
            FetchError: it cannot be fetched.
            OSError: it cannot be stored.
        """
        file = self.file(url)
        if _touch(file):
            return file
        since, reason = self._failed.get(url, (0.0, ""))
        if reason and time.monotonic() - since < _GRUDGE:
            raise FetchError(reason)
        self.folder.mkdir(parents=True, exist_ok=True)
        # A few lock files for all addresses: as many as shards would stay behind for ever.
        with exclusive(self.folder / f".lock-{zlib.crc32(url.encode()) % _STRIPES}"):
            if not _touch(file):
                try:
                    self._fetch(url, file)
                except FetchError as error:
                    self._failed[url] = time.monotonic(), str(error.strerror)
                    raise
        return file

    def used(self, file: Path) -> None:
        """Note that a file is in use, so that others are dropped before it."""
        _touch(file)

    def get_again(self, url: str) -> Path:
        """The file of an address as it is now: fetched whether it is here or not. Raises as `get`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.file(url)
        self._fetch(url, file)
        return file

    def _fetch(self, url: str, file: Path) -> None:
        part = file.with_name(f".part-{os.getpid()}-{threading.get_ident()}")
        try:
            modified = _download(url, part)
            with exclusive(self.folder / ".lock"):
                self._make_room(part)
                # Recently used, and changed when the server says so: an index of it outlives its being dropped.
                os.utime(part, (time.time(), modified))
                part.replace(file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _make_room(self, new: Path) -> None:
        """Drop files until a new one that lies here fits in. Call only while the folder is locked."""
        used = []
        now = time.time()
        for file in self.folder.iterdir():
            with contextlib.suppress(OSError):
                status = file.stat()
                if file.name.startswith(".part-") and now - status.st_mtime > _STALE:
                    file.unlink()
                elif not file.name.startswith("."):
                    used.append((status.st_atime_ns, status.st_size, file))
        total = new.stat().st_size + sum(size for _, size, _ in used)
        for last, size, file in sorted(used):
            if total <= self.limit:
                return
            if now - last / 1e9 < _IN_USE and not self._warned:
                self._warned = True
                log.warning(
                    "%s: shards are dropped while they are in use and will be fetched again; raise data.cache_gib, or lower "
                    "data.shard_lanes or data.shard_window",
                    self.folder,
                )
            # Windows does not let go of files that someone reads.
            with contextlib.suppress(PermissionError):
                file.unlink(missing_ok=True)
                total -= size


def _touch(file: Path) -> bool:
    """Note that a file was used; false where there is none."""
    try:
        status = file.stat()
        os.utime(file, ns=(time.time_ns(), status.st_mtime_ns))
    except FileNotFoundError:
        return False
    except PermissionError:
        pass  # another user's folder: its files are good, only their order of use stays as it was
    return True


def _download(url: str, part: Path) -> float:
    """Fetch an address into a file, trying again what may pass; when it was changed, in seconds (0: not known)."""
    for attempt in range(_TRIES):
        try:
            return _download_once(url, part)
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 425, 429):
                break
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            cause = getattr(error, "reason", error)
            reason = " ".join(str(cause).split()) or type(cause).__name__
        if attempt + 1 < _TRIES:
            log.info("%s: %s; trying again", url, reason)
            time.sleep(_FIRST_PAUSE * 2**attempt)
    raise FetchError(f"cannot be fetched: {reason}")


def _download_once(url: str, part: Path) -> float:
    request = urllib.request.Request(url, headers={"User-Agent": "hjepa"})
    with urllib.request.urlopen(request, timeout=_SILENCE) as answer, part.open("wb") as output:
        shutil.copyfileobj(answer, output, 1 << 20)
        expected = answer.headers.get("Content-Length")
        if expected is not None and output.tell() != int(expected):
            raise ConnectionError(f"{output.tell()} of {expected} bytes arrived")
        changed = email.utils.parsedate_tz(answer.headers.get("Last-Modified", ""))
        return 0.0 if changed is None else float(email.utils.mktime_tz(changed))
