"""Alerts reach real servers, and never hold up or end a run."""

from __future__ import annotations

import http.server
import json
import logging
import socket
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
import torch
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from tests.conftest import Run

from hjepa.config import HealthConfig, load_config
from hjepa.errors import UserError
from hjepa.health.alerts import Alerts
from hjepa.health.measures import Measuring
from hjepa.training.online import OnlineResult
from hjepa.training.watch import HealthWatch

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


class _Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.headers["Content-Type"], json.loads(body)))  # type: ignore[attr-defined]
        self.send_response(self.server.answer)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[http.server.ThreadingHTTPServer]:
    """A server that keeps what is posted to it, in `received`, and answers with `answer`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    server.received, server.answer = [], 200  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class _Mailbox:
    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 (the library's name)
        self.mails.append(
            (envelope.mail_from, envelope.rcpt_tos, message_from_bytes(envelope.content, policy=policy.default))
        )
        return "250 OK"


@pytest.fixture
def mail() -> Iterator[tuple[_Mailbox, int]]:
    """A mail server that takes messages from those who log in, and its port."""

    def login(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"runner", b"secret")
        return AuthResult(success=good, handled=False)

    box = _Mailbox()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(
        box, hostname="127.0.0.1", port=port, authenticator=login, auth_required=True, auth_require_tls=False
    )
    controller.start()
    yield box, port
    controller.stop()


def address(server: http.server.HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/services/T0/B0"


def mailing(port: int, **more: Any) -> HealthConfig:
    email = {"to": ["a@example.org", "b@example.org"], "server": "127.0.0.1", "port": port, "user": "runner", **more}
    return HealthConfig(email=email)  # type: ignore[arg-type]


def test_webhook_receives_text_and_facts(hook: http.server.ThreadingHTTPServer) -> None:
    alerts = Alerts(HealthConfig(webhook=address(hook)), "my run")
    alerts("health green -> red at step 7: reason", {"step": 7, "health": "red"})
    alerts.close()
    ((kind, body),) = hook.received  # type: ignore[attr-defined]
    assert kind == "application/json"
    assert body == {"text": "my run: health green -> red at step 7: reason", "step": 7, "health": "red"}


def test_email_is_sent_after_login(mail: tuple[_Mailbox, int], monkeypatch: pytest.MonkeyPatch) -> None:
    box, port = mail
    monkeypatch.setenv("HJEPA_SMTP_PASSWORD", "secret")
    alerts = Alerts(mailing(port, sender="lab@example.org"), "my run")
    alerts("health green -> red at step 7: reason", {})
    alerts.close()
    ((sender, recipients, message),) = box.mails
    assert (sender, recipients) == ("lab@example.org", ["a@example.org", "b@example.org"])
    assert message["Subject"] == "hjepa: my run"
    assert "red at step 7: reason" in message.get_content()


def test_password_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HJEPA_SMTP_PASSWORD", raising=False)
    with pytest.raises(UserError, match=r"health\.email: .*HJEPA_SMTP_PASSWORD") as error:
        Alerts(mailing(25), "run")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["refused", "error 500", "wrong password"])
def test_failed_alerts_are_logged(
    kind: str,
    hook: http.server.ThreadingHTTPServer,
    mail: tuple[_Mailbox, int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HJEPA_SMTP_PASSWORD", "guess")
    hook.answer = 500  # type: ignore[attr-defined]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    config = {
        "refused": HealthConfig(webhook=closed),
        "error 500": HealthConfig(webhook=address(hook)),
        "wrong password": mailing(mail[1]),
    }[kind]
    alerts = Alerts(config, "run")
    with caplog.at_level(logging.WARNING, logger="hjepa"):
        alerts("text", {})
        alerts.close()
    (message,) = [record.getMessage() for record in caplog.records if record.name == "hjepa"]
    assert "the alert could not be sent" in message
    assert "training continues" in message
    assert "\n" not in message


def test_run_that_turns_red_sends_an_alert_once(
    hook: http.server.ThreadingHTTPServer, run: Run, tmp_path: Path
) -> None:
    run({"health.cosine": [100.0, 100.0], "health.webhook": address(hook), "logging.experiment_name": "named"})
    ((_, body),) = hook.received  # type: ignore[attr-defined]
    assert body["text"].startswith("named: health ")
    assert body["step"] == 6
    assert body["signs"][0]["figure"] == "cosine"


def test_message_is_sent_when_a_run_recovers(hook: http.server.ThreadingHTTPServer) -> None:
    config = load_config({}, {"health.webhook": address(hook)})
    watch = HealthWatch(config, Alerts(config.health, "run"), is_main=True)
    alike = torch.randn(1, 1, 8).expand(100, 4, 8)
    for step, cells in enumerate((torch.randn(100, 4, 8), alike, alike, torch.randn(100, 4, 8))):
        measuring = Measuring()
        measuring.add([cells])
        watch.evaluation(OnlineResult(measuring.measures(), {}), counts=True)
        watch.verdict(step)
        watch.close()
    texts = [body["text"] for _, body in hook.received]  # type: ignore[attr-defined]
    assert len(texts) == 2
    assert texts[0].startswith("run: health green -> red at step 1: ")
    assert texts[1] == "run: health red -> green at step 3"
