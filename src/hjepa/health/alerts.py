"""Messages about the health of a run to people: a webhook and e-mail."""

from __future__ import annotations

import json
import logging
import os
import smtplib
import ssl
import threading
import urllib.error
import urllib.request
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

from hjepa.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hjepa.config.health import EmailConfig, HealthConfig

log = logging.getLogger("hjepa")

# Seconds to wait for a server.
_TIMEOUT = 10


class Alerts:
    """Sends messages in threads, so that training never waits for a server. A message that fails is logged.

    Args:
        config: the ``health`` section.
        run: name of the run, for the subject.

    Raises:
        UserError: e-mail needs a password, and the environment variable is not set.
    """

    def __init__(self, config: HealthConfig, run: str) -> None:
        self._run = run
        self._ways: list[tuple[str, Callable[[str, dict[str, Any]], None]]] = []
        self._threads: list[threading.Thread] = []
        if config.webhook is not None:
            address = config.webhook
            self._ways.append(("health.webhook", lambda text, facts: post(address, text, facts)))
        if config.email.to:
            email, password = config.email, _password(config.email)
            self._ways.append(("health.email", lambda text, _: send(email, password, f"hjepa: {self._run}", text)))

    def __call__(self, text: str, facts: dict[str, Any]) -> None:
        """Send a message by all ways.

        Args:
            text: the message.
            facts: plain values that a webhook receives beside the text.
        """
        for key, way in self._ways:
            thread = threading.Thread(target=_attempt, args=(key, way, f"{self._run}: {text}", facts), daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Wait for the messages on their way, at most as long as a server may take to answer."""
        for thread in self._threads:
            thread.join(_TIMEOUT)


def _attempt(key: str, way: Callable[[str, dict[str, Any]], None], text: str, facts: dict[str, Any]) -> None:
    try:
        way(text, facts)
    except (OSError, ValueError, smtplib.SMTPException) as error:
        reason = getattr(error, "reason", None) or error
        log.warning("%s: the alert could not be sent (%s); training continues", key, reason)


def post(address: str, text: str, facts: dict[str, Any]) -> None:
    """Post ``{"text": text, …}`` as JSON, which Slack-compatible webhooks show as a message.

    Raises:
        OSError: the server cannot be reached or answers with an error.
    """
    body = json.dumps({"text": text, **facts}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT):
        pass


def send(config: EmailConfig, password: str | None, subject: str, text: str) -> None:
    """Send an e-mail.

    Raises:
        OSError: the server cannot be reached.
        smtplib.SMTPException: the server refuses the message.
    """
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = config.sender, ", ".join(config.to), subject
    message.set_content(text)
    # The default context checks the certificate of the server, which smtplib alone does not.
    context = ssl.create_default_context()
    if config.security == "tls":
        connection: smtplib.SMTP = smtplib.SMTP_SSL(config.server, config.port, timeout=_TIMEOUT, context=context)
    else:
        connection = smtplib.SMTP(config.server, config.port, timeout=_TIMEOUT)
    with connection as server:
        if config.security == "starttls":
            server.starttls(context=context)
        if config.user is not None:
            server.login(config.user, password or "")
        server.send_message(message)


def _password(config: EmailConfig) -> str | None:
    if config.user is None:
        return None
    found = os.environ.get(config.password_variable)
    if found is None:
        raise UserError(
            f"health.email: logging in as {config.user} needs a password in the environment variable "
            f"{config.password_variable}; set it, or remove health.email.user"
        )
    return found
