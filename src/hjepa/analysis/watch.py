"""A live view of a running run in the terminal, from its files alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.analysis.history import History, find_run, loss_terms, read_history
from hjepa.analysis.wording import number, percent, time_text
from hjepa.errors import UserError
from hjepa.health.light import Light, Sign
from hjepa.runs.records import series

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SECONDS = 2.0
"""Between two looks at the files."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 32
_COLOURS = {"green": "green", "amber": "yellow", "red": "red"}
_LOG_LINES, _SIGNS, _TERMS = 5, 4, 8
# Records for the current speed.
_RECENT = 5


def watch(run: str | Path, *, once: bool = False, seconds: float = SECONDS, console: Console | None = None) -> History:
    """Show the progress of a run until it ends.

    The files of the run are read again when they have changed; a line that is being written is left out until it is
    complete. Nothing is written, and the run does not notice.

    Args:
        run: run folder, or a checkpoint in it. It need not have begun: a folder without records is waited for.
        once: print one view and return.
        seconds: between two looks at the files.
        console: where to draw; standard output by default.

    Returns:
        what was read last.

    Raises:
        UserError: no run folder, or ``seconds`` is not positive.
    """
    from rich.console import Console as RichConsole
    from rich.live import Live

    if not seconds > 0:
        raise UserError(f"--interval: {seconds:g} seconds; use a positive number")
    out = RichConsole() if console is None else console
    history = read_history(find_run(run))
    if once or not out.is_terminal:
        out.print(view(history))
        return history
    stamp = _stamp(history.folder)
    with Live(view(history), console=out, auto_refresh=False, transient=False) as live:
        while history.status() in ("running", "not started"):
            time.sleep(seconds)
            now = _stamp(history.folder)
            if now != stamp:
                stamp, history = now, read_history(history.folder)
            live.update(view(history), refresh=True)
    return history


def view(history: History, now: float | None = None) -> RenderableType:
    """One view: progress, speed, losses, k-NN, health and the last lines of the log.

    Args:
        history: the run.
        now: seconds since 1970, for its age; the present by default.
    """
    from rich.console import Group
    from rich.panel import Panel
    from rich.rule import Rule
    from rich.text import Text

    present = time.time() if now is None else now
    parts: list[RenderableType] = [_progress(history, present), Text(_speed(history, present)), Rule(style="dim")]
    parts += [*_losses(history), *_evaluations(history), Rule(style="dim"), *_health(history)]
    if history.log:
        parts.append(Rule(style="dim"))
        parts += [Text(line, style="dim", overflow="ellipsis", no_wrap=True) for line in history.log[-_LOG_LINES:]]
    title = f"{history.config.logging.experiment_name}  {history.folder}"
    return Panel(Group(*parts), title=Text(title), title_align="left", padding=(0, 1))


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """Values as blocks of eight heights, the last at the right; averaged if there are more than ``width``."""
    if not values:
        return ""
    count = min(width, len(values))
    cuts = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, high = min(means), max(means)
    if high <= low:
        return _BLOCKS[0] * count
    return "".join(_BLOCKS[min(7, int(8 * (value - low) / (high - low)))] for value in means)


def _progress(history: History, now: float) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total = history.total_steps
    line = Table.grid(padding=(0, 1))
    status = history.status(now)
    if total is None:
        return Text(f"{status}: no records yet")
    line.add_row(
        ProgressBar(total=total, completed=history.step, width=_WIDTH),
        Text(f"{min(1.0, history.step / total):4.0%}"),
        Text(f"step {history.step:,} of {total:,}  epoch {history.epoch:.2f} of {history.config.training.epochs:g}"),
        Text(status, style="bold"),
    )
    return line


def _speed(history: History, now: float) -> str:
    train = history.records.train
    if not train:
        return ""
    _, rates = series(train[-_RECENT:], "images_per_second")
    _, waits = series(train[-_RECENT:], "data_wait")
    parts = []
    if rates:
        parts.append(f"{sum(rates) / len(rates):.0f} images/s")
    if waits:
        parts.append(f"waiting for data {sum(waits) / len(waits):.0%}")
    seconds = history.records.seconds
    if seconds:
        parts.append(f"{time_text(seconds)} so far")
        if history.status(now) == "running" and history.epoch:
            left = seconds / history.epoch * (float(history.config.training.epochs) - history.epoch)
            parts.append(f"{time_text(max(0.0, left))} left")
    if history.written is not None:
        parts.append(f"last written {time_text(max(0.0, now - history.written))} ago")
    return "  ".join(parts)


def _losses(history: History) -> list[RenderableType]:
    from rich.table import Table

    train = history.records.train
    names = list(dict.fromkeys(name for record in train for name in loss_terms(record)))
    if not names:
        return []
    table = Table.grid(padding=(0, 2))
    for name in [*names[:_TERMS], "grad_norm"]:
        _, values = series(train, name)
        if not values:
            continue
        _, chance = series(train[-1:], f"chance/{name.removeprefix('loss/')}")
        beside = f"{values[-1] / chance[-1]:.0%} of chance" if chance and chance[-1] > 0 else ""
        table.add_row(name.replace("grad_norm", "gradient norm"), sparkline(values), number(values[-1]), beside)
    return [table]


def _evaluations(history: History) -> list[RenderableType]:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    _, knn = series(history.records.evaluations, "knn")
    _, rank = series(history.records.evaluations, "rank")
    if knn:
        table.add_row("online k-NN", sparkline(knn), percent(knn[-1]), f"best {percent(max(knn))}")
    if rank:
        table.add_row("effective rank", sparkline(rank), number(rank[-1]), f"of {history.geometry.embed_dim} a level")
    return [table] if knn or rank else []


def _health(history: History) -> list[RenderableType]:
    from rich.text import Text

    light, signs = _state(history)
    if light is None:
        return [Text("health: not judged yet")]
    line = Text("health ")
    line.append(f"\N{BLACK CIRCLE} {light}", style=f"bold {_COLOURS[light]}")
    lines: list[RenderableType] = [line]
    for sign in signs[:_SIGNS]:
        lines.append(Text(f"  {sign.light}: {sign.text} ({sign.rule})", style=_COLOURS[str(sign.light)]))
    for record in history.records.health[-2:]:
        lines.append(Text(f"  step {record['at']}: {', '.join(record['actions']) or 'no action'}"))
    return lines


def _state(history: History) -> tuple[str | None, list[Sign]]:
    """The last light, and what the last record and the last evaluation showed."""
    records: list[dict[str, Any]] = sorted(
        history.records.train + history.records.evaluations, key=lambda record: int(record["step"])
    )
    recorded = [str(r["health"]) for r in records if "health" in r]
    last = {int(group[-1]["step"]) for group in (history.records.train, history.records.evaluations) if group}
    current = {(s.figure, s.where): s for step, signs in history.signs if step in last for s in signs}
    signs = sorted(current.values(), key=lambda sign: -sign.light)
    if not records:
        return None, []
    return recorded[-1] if recorded else str(max((s.light for s in signs), default=Light.GREEN)), signs


def _stamp(folder: Path) -> list[tuple[int, int]]:
    """Size and time of the files that are read."""
    found = []
    for name in ("metrics.jsonl", "training.log", "results.json"):
        try:
            status = (folder / name).stat()
            found.append((status.st_size, status.st_mtime_ns))
        except OSError:
            found.append((0, 0))
    return found
