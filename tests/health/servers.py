"""Real servers on this machine that receive alerts: a webhook and a mail server."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword


class _Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.headers["Content-Type"], json.loads(body)))  # type: ignore[attr-defined]
        self.send_response(self.server.answer)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def webhook(answer: int = 200) -> Iterator[tuple[list[tuple[str, Any]], str]]:
    """What is posted, as (content type, JSON), and the address to post to."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    server.received, server.answer = [], answer  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.received, f"http://127.0.0.1:{server.server_port}/services/T0/B0"  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Mail:
    """A message that arrived: addresses, content, and whether the connection was encrypted."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    encrypted: bool


class _Handler:
    def __init__(self) -> None:
        self.mails: list[Mail] = []

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 (the library's name)
        message = message_from_bytes(envelope.content, policy=policy.default)
        encrypted = server.transport.get_extra_info("ssl_object") is not None
        self.mails.append(Mail(envelope.mail_from, envelope.rcpt_tos, message, encrypted))  # type: ignore[arg-type]
        return "250 OK"


def _login(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"runner", b"secret")
    return AuthResult(success=good, handled=False)


@contextlib.contextmanager
def mailbox(security: str = "none", context: ssl.SSLContext | None = None) -> Iterator[tuple[list[Mail], int]]:
    """Messages that arrived and the port of a mail server that takes messages from `runner` with `secret` only."""
    handler = _Handler()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings: dict[str, Any] = {"authenticator": _login, "auth_required": True, "auth_require_tls": False}
    if security == "starttls":
        settings |= {"tls_context": context, "require_starttls": True}
    if security == "tls":
        settings |= {"ssl_context": context}
    controller = Controller(handler, hostname="localhost", port=port, server_hostname="localhost", **settings)
    controller.start()
    try:
        yield handler.mails, port
    finally:
        controller.stop()
