"""Numbers of things in messages."""

from __future__ import annotations


def quantity(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: ``1 file``, ``2 files``.

    Args:
        count: how many.
        noun: one of them.
        plural: several of them; ``noun`` with an s by default.
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def is_or_are(count: int) -> str:
    """The verb for so many things."""
    return "is" if count == 1 else "are"
