"""How figures are written in the tables of the pages."""

from __future__ import annotations

from collections.abc import Sequence

from hjepa.research.statistics import interval


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A Markdown table; columns stand right but for those of ``left``."""
    rule = ["---" if i in left else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def points(value: float | None) -> str:
    """An accuracy in per cent, rounded as the program prints it; a blank for none."""
    return "" if value is None else f"{value:.1f}"


def change(value: float) -> str:
    """A difference of accuracies; zero has no sign."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("-0.0", "+0.0") else text


def spread(values: Sequence[float], *, sign: bool = False) -> str:
    """Mean and half of its 95 % interval."""
    found = interval(list(values))
    mean = change(found.mean) if sign else points(found.mean)
    if found.low is None or found.high is None:
        return mean
    return f"{mean} ± {found.high - found.mean:.1f}"


def minutes(seconds: float | None) -> str:
    """A duration: ``2 min 58 s``; a blank where it was not recorded."""
    if seconds is None:
        return ""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s"


def joined(values: Sequence[str]) -> str:
    """Values of several seeds."""
    return ", ".join(values)
