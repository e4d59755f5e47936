"""What an evaluation protocol is, and how its results are printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hjepa.evaluation.subject import Subject


@dataclass(frozen=True)
class Block:
    """A small table that is printed below the main one.

    Attributes:
        title: what the numbers are, with their unit.
        header: names of the columns; the first one names the rows.
        rows: cells as text, as many as `header` has.
        notes: lines below the rows.
    """

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def no_blocks(_part: dict[str, Any], _results: dict[str, Any]) -> list[Block]:
    """For a protocol whose results are all in the main table."""
    return []


@dataclass(frozen=True)
class Protocol:
    """One way to evaluate a trained encoder.

    Attributes:
        name: of `--eval-type`, and the key in ``results.json``.
        label: in messages, such as "linear probe".
        about: what it measures, in one line.
        run: from a `Subject` to what is stored under `name`, JSON values without NaN and infinity, or to the reason why
            it is skipped. It fits on ``subject.train_rows`` and reads ``subject.split``. What it returns under
            `validation` is stored in ``results["validation"][name]`` instead.
        in_all: whether it is part of `--eval-type all`.
        blocks: from what is stored under `name`, and all results, to the tables to print; not called if skipped.
        beside_test: whether it also reads the validation images when test is requested.
    """

    name: str
    label: str
    about: str
    run: Callable[[Subject], dict[str, Any] | str]
    in_all: bool = True
    blocks: Callable[[dict[str, Any], dict[str, Any]], list[Block]] = no_blocks
    beside_test: bool = False


def percent(value: float | None) -> str:
    """An accuracy from 0 to 1 in per cent; a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}"
