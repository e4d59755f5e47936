"""Numbers and times in texts."""

from __future__ import annotations


def number(value: float | None) -> str:
    """Three significant digits; a dash for None."""
    return "-" if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    """0.4567 as 45.7%; a dash for None."""
    return "-" if value is None else f"{100 * value:.1f}%"


def time_text(seconds: float) -> str:
    """Seconds as "45 s", "12 min" or "3 h 5 min"."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{hours / 24:.1f} days"
