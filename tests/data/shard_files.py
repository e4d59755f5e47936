"""Generated shards, and a web server that counts requests and can be made to fail."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.data.image_files import encode, noise


def write_tar(file: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write named members in order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def write_shards(root: Path, counts: Iterable[int], name: str = "shard") -> list[Path]:
    """Shards with so many samples each: small PNG files of their own, labels 0, 1 and 2 in turn."""
    files, first = [], 0
    for number, count in enumerate(counts):
        members = []
        for index in range(first, first + count):
            members.append((f"{index:05d}.png", encode(noise(index, 12, 14))))
            members.append((f"{index:05d}.cls", str(index % 3).encode()))
        files.append(write_tar(root / f"{name}-{number:04d}.tar", members))
        first += count
    return files


class Server:
    """Serves a folder.

    Attributes:
        address: of the folder.
        answered: how often each path was asked for.
        fail: from a path and how often it was asked for to a status with which to refuse, or -1 to send half of it.
        pause: seconds before every answer.
    """

    def __init__(self) -> None:
        self.address = ""
        self.answered: Counter[str] = Counter()
        self.fail: Callable[[str, int], int | None] = lambda *_: None
        self.pause = 0.0


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, server_state: Server, **kwargs: Any) -> None:
        self.state = server_state
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.state.answered[name] += 1
        time.sleep(self.state.pause)
        status = self.state.fail(name, self.state.answered[name])
        if status is None:
            super().do_GET()
        elif status > 0:
            self.send_error(status)
        else:
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    """A server on the loopback interface for as long as the context lasts."""
    root.mkdir(parents=True, exist_ok=True)
    state = Server()
    handler = partial(_Handler, directory=str(root), server_state=state)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        state.address = f"http://127.0.0.1:{httpd.server_address[1]}"
        yield state
        httpd.shutdown()
        thread.join()
