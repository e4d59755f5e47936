"""Conclusions from the log of the experiments."""

from __future__ import annotations

from benchmarks.published.log import Log
from benchmarks.published.readings import Published
from benchmarks.published.text import change
from benchmarks.published.work import compared, work_of


def row(number: str, page: str = "") -> str:
    """A link to a row of the log."""
    return f"[{number}]({page}#{number.lower()})"


def log(published: Published) -> str:
    """Every row."""
    return Log(published).markdown()


def learned(published: Published) -> str:
    """The main findings, one per line."""
    rows = Log(published)

    def both(number: str, other: str) -> str:
        linear, last = rows.difference(number, other), rows.difference(number, other, "last")
        return f"{change(linear)} / {change(last)} ({row(number)})"

    def one(number: str, other: str, part: str = "linear") -> str:
        return f"{change(rows.difference(number, other, part))} ({row(number)})"

    lines = [
        "On the built-in set, prediction adds little to the regulariser: almost without prediction, the probe changes by "
        f"{both('S10', 'S7a')}. On photographs, prediction adds {both('C2', 'C2a')} to the regulariser.",
        f"InfoNCE over the cells of a batch, compared with smooth L1: {both('L3', 'L1')} on photographs, "
        f"{both('S12', 'S7a')} on the built-in set.",
        f"Muon instead of AdamW is the largest single improvement on photographs, {both('C19', 'C17')}. With smooth L1 on the "
        f"built-in set, the features collapse with it, {both('S14', 'S7')}.",
        "Levels at different depths are better than levels on pooled grids: three grids after the last block give "
        f"{both('C36', 'C35')}, two of four levels on grids {both('C38', 'C35')}.",
        f"A further level after block 1, with a higher learning rate: {both('C21', 'C19')}. A level after every block, at full "
        f"length: {both('F10', 'F5')}.",
        f"Hiding blocks is better than hiding scattered cells, {both('C40', 'C35')}, or larger blocks for coarse levels, "
        f"{both('C37', 'C35')}.",
        "The target encoder should follow fast at first and slowly at the end: a constant EMA momentum gives "
        f"{both('C46', 'C35')}.",
        f"Training in bf16 costs no measurable accuracy: {both('C35', 'C22')}.",
        "The order of short runs was reversed at full length three times: for predicting visible cells "
        f"({one('C24', 'C22')} in a short run, {one('F2', 'F1')} at full length), for the weaker regulariser, evaluated on the last "
        f"level ({one('L7', 'L5', 'last')}, {one('F8', 'F5', 'last')}), and for one level instead of four with that regulariser "
        f"({one('L9', 'L7')}, {one('F9', 'F8')}).",
        "Another seed of the same full-length recipe changes the probe by "
        f"{both('F4', 'F1')} and {both('F7', 'F5')}. Single short runs that differ by less than two points cannot be "
        "distinguished.",
    ]
    return "\n".join(f"{n}. {line}" for n, line in enumerate(lines, start=1))


def failed(published: Published) -> str:
    """What did not work, in five lines."""
    rows = Log(published)
    page = "recipe.md"

    def said(number: str, other: str) -> str:
        linear, last = rows.difference(number, other), rows.difference(number, other, "last")
        return f"{change(linear)} / {change(last)} ({row(number, page)})"

    def dearer(number: str, other: str) -> str:
        return compared(work_of(rows.reading(number)), work_of(rows.reading(other)))

    lines = [
        f"**Levels on pooled grids** instead of at depths: {said('C36', 'C35')}, {said('C38', 'C35')}.",
        "**Predicting visible cells too** (dense loss): better in short runs, "
        f"{said('C24', 'C22')}, worse at full length, {said('F2', 'F1')}.",
        "**Choosing by short runs**: three times the better short run was the worse one at full length: predicting visible "
        f"cells ({row('C24', page)}, {row('F2', page)}), the weaker regulariser, evaluated on the last level "
        f"({row('L7', page)}, {row('F8', page)}), and one level instead of four with that regulariser "
        f"({row('L9', page)}, {row('F9', page)}); differences are in the [log]({page}).",
        "**Two mask sets per image** with Muon: "
        f"{said('C41', 'C35')} for {dearer('C41', 'C35')}. At that time, a cell hidden in both sets was its own negative, so "
        "this needs to be measured again.",
        "**Prediction on the built-in set**: the probe on all levels is as good with almost no prediction, "
        f"{said('S10', 'S7a')}. `quickstart` therefore shows that the program works, but not the benefit of H-JEPA.",
    ]
    return "\n".join(f"- {line}" for line in lines)
