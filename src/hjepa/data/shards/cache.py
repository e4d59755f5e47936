"""Cache of downloaded shards: a folder of limited size, shared by processes."""

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
# Network timeout in seconds.
_SILENCE = 60.0
# Seconds before a failed download is retried: without a pause, every image of the shard would wait for a new failure.
_RETRY_AFTER = 60.0
# Age in seconds from which a partial download is considered abandoned.
_STALE = 3600.0
# A shard used within so many seconds is considered in use.
_IN_USE = 10.0
_STRIPES = 64


class FetchError(OSError):
    """A URL that cannot be downloaded; the message is the reason in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(None, reason)


class ShardCache:
    """Files by URL, downloaded on first use; the least recently used are dropped first.

    Any number of processes and threads can share the folder. Each file is downloaded by one of them while the others
    wait, and is moved into place only when complete.

    Args:
        folder: the folder, created with the first download.
        limit: total size of the files in bytes. The newest file is kept even if it exceeds the limit by itself.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._failed: dict[str, tuple[float, str]] = {}
        self._warned = False

    def file(self, url: str) -> Path:
        """Path of a URL's file in the cache, whether or not it exists."""
        name = PurePosixPath(urlsplit(url).path).name or "shard"
        return self.folder / f"{hashlib.blake2b(url.encode(), digest_size=12).hexdigest()}-{name}"

    def get(self, url: str) -> Path:
        """The file of a URL, downloaded if missing. Other processes may drop it at any time.

        Raises:
            FetchError: the URL cannot be downloaded.
            OSError: the file cannot be stored.
        """
        file = self.file(url)
        if _touch(file):
            return file
        since, reason = self._failed.get(url, (0.0, ""))
        if reason and time.monotonic() - since < _RETRY_AFTER:
            raise FetchError(reason)
        self.folder.mkdir(parents=True, exist_ok=True)
        # URLs share a fixed number of lock files, because lock files are never deleted.
        with exclusive(self.folder / f".lock-{zlib.crc32(url.encode()) % _STRIPES}"):
            if not _touch(file):
                try:
                    self._fetch(url, file)
                except FetchError as error:
                    self._failed[url] = time.monotonic(), str(error.strerror)
                    raise
        return file

    def used(self, file: Path) -> None:
        """Mark a file as recently used, so that others are dropped before it."""
        _touch(file)

    def get_again(self, url: str) -> Path:
        """Download a URL even if its file exists. Raises as `get`."""
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
                # Accessed now, modified at the server's time: an index of the shard stays valid if it is downloaded
                # again.
                os.utime(part, (time.time(), modified))
                part.replace(file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _make_room(self, new: Path) -> None:
        """Drop files until a newly downloaded one fits. Call only while holding the folder's lock."""
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
                    "%s: the cache is too small, so shards in use are dropped and downloaded again; raise data.cache_gib, or "
                    "lower data.shard_lanes or data.shard_window",
                    self.folder,
                )
            # Windows does not delete files that are open.
            with contextlib.suppress(PermissionError):
                file.unlink(missing_ok=True)
                total -= size


def _touch(file: Path) -> bool:
    """Mark a file as recently used; return whether it exists."""
    try:
        status = file.stat()
        os.utime(file, ns=(time.time_ns(), status.st_mtime_ns))
    except FileNotFoundError:
        return False
    except PermissionError:
        pass  # another user's folder: the files can be read, but their order of use is not updated
    return True


def _download(url: str, part: Path) -> float:
    """Download a URL to a file, retrying temporary errors.

    Returns:
        time of the last modification, in seconds since the epoch; 0 if the server does not give it.
    """
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
            log.info("%s: %s; retrying", url, reason)
            time.sleep(_FIRST_PAUSE * 2**attempt)
    raise FetchError(f"cannot be downloaded: {reason}")


def _download_once(url: str, part: Path) -> float:
    request = urllib.request.Request(url, headers={"User-Agent": "hjepa"})
    with urllib.request.urlopen(request, timeout=_SILENCE) as answer, part.open("wb") as output:
        shutil.copyfileobj(answer, output, 1 << 20)
        expected = answer.headers.get("Content-Length")
        if expected is not None and output.tell() != int(expected):
            raise ConnectionError(f"received {output.tell()} of {expected} bytes")
        changed = email.utils.parsedate_tz(answer.headers.get("Last-Modified", ""))
        return 0.0 if changed is None else float(email.utils.mktime_tz(changed))
