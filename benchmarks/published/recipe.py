"""What the log of the search says when it is read as a whole."""

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
    """What was learned, one finding a line."""
    rows = Log(published)

    def both(number: str, other: str) -> str:
        linear, last = rows.difference(number, other), rows.difference(number, other, "last")
        return f"{change(linear)} / {change(last)} ({row(number)})"

    def one(number: str, other: str, part: str = "linear") -> str:
        return f"{change(rows.difference(number, other, part))} ({row(number)})"

    lines = [
        "On the embedded set the regulariser does nearly all of the work: without prediction the probe changes by "
        f"{both('S10', 'S7a')}. On photographs prediction is worth {both('C2', 'C2a')}.",
        f"InfoNCE over the cells of a batch: {both('L3', 'L1')} over smooth L1 on photographs, "
        f"{both('S12', 'S7a')} on the embedded set.",
        f"Muon is the largest single step on photographs, {both('C19', 'C17')}; beside smooth L1 on the embedded set "
        f"it collapses, {both('S14', 'S7')}.",
        "Levels belong at depths, not on pooled grids: three grids after the last block have "
        f"{both('C36', 'C35')}, two of four levels on grids {both('C38', 'C35')}.",
        f"A level after block 1 and a higher rate: {both('C21', 'C19')}. A level after every block at full length: "
        f"{both('F10', 'F5')}.",
        f"Masks in blocks: scattered ones have {both('C40', 'C35')}, larger ones for coarse levels "
        f"{both('C37', 'C35')}.",
        f"A moving average that is fast at first and slow at the end: a constant one has {both('C46', 'C35')}.",
        f"bf16 costs nothing that can be seen: {both('C35', 'C22')}.",
        "Short runs chose wrongly three times: visible cells "
        f"({one('C24', 'C22')} short, {one('F2', 'F1')} at length), the weaker regulariser on the last level "
        f"({one('L7', 'L5', 'last')}, {one('F8', 'F5', 'last')}), and one level beside four at that regulariser "
        f"({one('L9', 'L7')}, {one('F9', 'F8')}).",
        "Another seed of the same full-length recipe changes the probe by "
        f"{both('F4', 'F1')} and {both('F7', 'F5')}; a difference below two points between single short runs means "
        "nothing.",
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
        "**A dense loss on visible cells**: better in short runs, "
        f"{said('C24', 'C22')}, worse at full length, {said('F2', 'F1')}.",
        "**Choosing by short runs**: it misled three times (visible cells, the weight of the regulariser, one level "
        f"beside four); see the [log]({page}).",
        "**Two mask sets per image** under Muon: "
        f"{said('C41', 'C35')} for {dearer('C41', 'C35')}. A cell hidden in both sets was its own negative then, so "
        "the question is open again.",
        "**Prediction on the embedded set**: the probe is as good with next to no prediction, "
        f"{said('S10', 'S7a')}, so `quickstart` shows that the program runs, not what H-JEPA is worth.",
    ]
    return "\n".join(f"- {line}" for line in lines)
