"""Alerts reach real servers, and never hold up or end a run."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.conftest import Run
from tests.health.servers import Mail, mailbox, webhook

from hjepa.config import Config, HealthConfig, load_config
from hjepa.errors import UserError
from hjepa.health.alerts import Alerts
from hjepa.health.measures import Measuring
from hjepa.training.online import OnlineResult
from hjepa.training.watch import HealthWatch

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


@pytest.fixture
def mail() -> Iterator[tuple[list[Mail], int]]:
    with mailbox() as found:
        yield found


def mailing(port: int, **more: Any) -> HealthConfig:
    email = {"to": ["a@example.org", "b@example.org"], "server": "localhost", "port": port, "user": "runner", **more}
    return HealthConfig(email=email)  # type: ignore[arg-type]


def test_webhook_receives_text_and_facts() -> None:
    with webhook() as (received, address):
        alerts = Alerts(HealthConfig(webhook=address), "my run")
        alerts("health green -> red at step 7: reason", {"step": 7, "health": "red"})
        alerts.close()
    ((kind, body),) = received
    assert kind == "application/json"
    assert body == {"text": "my run: health green -> red at step 7: reason", "step": 7, "health": "red"}


def test_email_is_sent_after_login(mail: tuple[list[Mail], int], monkeypatch: pytest.MonkeyPatch) -> None:
    mails, port = mail
    monkeypatch.setenv("HJEPA_SMTP_PASSWORD", "secret")
    alerts = Alerts(mailing(port, sender="lab@example.org"), "my run")
    alerts("health green -> red at step 7: reason", {})
    alerts.close()
    (found,) = mails
    assert (found.sender, found.recipients) == ("lab@example.org", ["a@example.org", "b@example.org"])
    assert found.message["Subject"] == "hjepa: my run"
    assert "red at step 7: reason" in found.message.get_content()


def test_password_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HJEPA_SMTP_PASSWORD", raising=False)
    with pytest.raises(UserError, match=r"health\.email: .*HJEPA_SMTP_PASSWORD") as error:
        Alerts(mailing(25), "run")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["refused", "error 500", "wrong password"])
def test_failed_alerts_are_logged(
    kind: str,
    mail: tuple[list[Mail], int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HJEPA_SMTP_PASSWORD", "guess")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    with webhook(500) as (_, address), caplog.at_level(logging.WARNING, logger="hjepa"):
        config = {
            "refused": HealthConfig(webhook=closed),
            "error 500": HealthConfig(webhook=address),
            "wrong password": mailing(mail[1]),
        }[kind]
        alerts = Alerts(config, "run")
        alerts("text", {})
        alerts.close()
    (message,) = [record.getMessage() for record in caplog.records if record.name == "hjepa"]
    assert "the alert could not be sent" in message
    assert "training continues" in message
    assert "\n" not in message


def test_run_that_turns_red_sends_an_alert_once(run: Run) -> None:
    with webhook() as (received, address):
        run({"health.cosine": [100.0, 100.0], "health.webhook": address, "logging.experiment_name": "named"})
    ((_, body),) = received
    assert body["text"].startswith("named: health ")
    assert body["step"] == 6
    assert body["signs"][0]["figure"] == "cosine"


def test_message_is_sent_when_a_run_recovers() -> None:
    with webhook() as (received, address):
        recover(load_config({}, {"health.webhook": address}))
    texts = [body["text"] for _, body in received]
    assert len(texts) == 2
    assert texts[0].startswith("run: health green -> red at step 1: ")
    assert texts[1] == "run: health red -> green at step 3"


def recover(config: Config) -> None:
    """A run whose features are alike at two of four evaluations."""
    watch = HealthWatch(config, Alerts(config.health, "run"), is_main=True)
    alike = torch.randn(1, 1, 8).expand(100, 4, 8)
    for step, cells in enumerate((torch.randn(100, 4, 8), alike, alike, torch.randn(100, 4, 8))):
        measuring = Measuring()
        measuring.add([cells])
        watch.evaluation(OnlineResult(measuring.measures(), {}), counts=True)
        watch.verdict(step)
        watch.close()
