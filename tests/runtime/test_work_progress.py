"""Long work outside training reports its progress, at most every few seconds."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from hjepa.runtime.work_progress import WorkProgress


class _Clock:
    """A clock that only the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_lines_are_a_few_seconds_apart(caplog: pytest.LogCaptureFixture) -> None:
    clock = _Clock()
    with caplog.at_level(logging.INFO, logger="hjepa"), WorkProgress("reading", 60, "pages", every=5, clock=clock) as p:
        for _ in range(60):
            clock.now += 0.5
            p.advance(note="atlas")
    assert caplog.messages == [f"reading: {done} of 60 pages (atlas)" for done in (10, 20, 30, 40, 50, 60)]


def test_short_work_prints_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="hjepa"), WorkProgress("reading", 3, "pages", clock=_Clock()) as p:
        p.advance(3)
    assert not caplog.messages


@pytest.mark.parametrize("console", [True, False])
def test_a_terminal_gets_a_progress_bar_instead_of_lines(
    console: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with (
        caplog.at_level(logging.INFO, logger="hjepa"),
        WorkProgress("reading", 4, "pages", console=console, every=0) as p,
    ):
        p.advance(2, note="atlas")
        p.advance(2)
    assert bool(terminal.getvalue()) == console
    assert bool(caplog.messages) != console
    if console:
        assert "4/4" in terminal.getvalue()


def test_the_progress_bar_is_removed_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(ValueError, match="damaged"), WorkProgress("reading", 4, "pages", console=True):
        raise ValueError("damaged")
    print("next", end="")
    assert sys.stdout is terminal
    assert terminal.getvalue().endswith("next")
