"""The figure of an analysis: loss, k-NN, features, terms, gradients and speed over the run, and the light."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hjepa.analysis.history import History, chance_levels, loss_terms
from hjepa.runs.records import level_keys, series
from hjepa.visualization.figures.style import Theme, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

_HEIGHT = 6.4
_LIGHTS = {"green": "#2fa36b", "amber": "#e0a100", "red": "#d2333c"}
_MEASURES = (("rank", "rank", "solid"), ("lidar", "LiDAR", (0, (4, 2))), ("spread", "spread", (0, (1, 1))))


def analysis_figure(history: History, result: dict[str, Any], theme: Theme) -> MatplotlibFigure:
    """Draw the figure.

    Args:
        history: the run.
        result: `hjepa.analysis.analyze.analysis`.
        theme: colours.
    """
    figure = new_figure(_HEIGHT, theme)
    diagnosis, status = result["diagnosis"], result["status"]
    figure.text(
        0.045, 0.968, f"{result['name']}: {diagnosis['headline'].lower()}", fontsize=13, color=theme.text, weight="bold"
    )
    total = "" if status["total_steps"] is None else f" of {status['total_steps']:,}"
    figure.text(0.045, 0.937, f"{status['state']}, step {status['step']:,}{total}", fontsize=8.5, color=theme.muted)
    panels: list[tuple[str, Callable[[Axes], bool]]] = [
        ("Loss as a share of its chance level", lambda axes: _losses(axes, history, theme)),
        ("Online k-NN, %", lambda axes: _knn(axes, history, result, theme)),
        ("Features over the untrained encoder's", lambda axes: _features(axes, history, theme)),
        ("Other terms over their lowest value", lambda axes: _terms(axes, history, theme)),
        ("Gradient norm before clipping", lambda axes: _gradient(axes, history, result, theme)),
        ("Share of the time, %", lambda axes: _time(axes, result, theme)),
    ]
    right = max(1, history.step) * 1.01
    for place, (title, draw) in enumerate(panels):
        row, column = divmod(place, 3)
        axes = figure.add_axes((0.05 + column * 0.325, 0.575 - row * 0.4, 0.275, 0.285))
        plain_axes(axes, theme, title)
        if not draw(axes):
            axes.set_yticks([])
            axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=theme.muted, fontsize=8.5)
        if place != len(panels) - 1:
            axes.set_xlim(0, right)
            axes.set_xlabel("step", fontsize=8, color=theme.muted)
    _strip(figure, result, theme, right)
    return figure


def _losses(axes: Axes, history: History, theme: Theme) -> bool:
    train = history.records.train
    keys = level_keys(train, "loss")
    if not keys:
        x, y = series(train, "loss")
        axes.set_title("Loss", loc="left", fontsize=9.5, color=theme.text, pad=7)
        axes.plot(x, y, color=theme.text, linewidth=1.3)
        return bool(x)
    top = 1.0
    for level, key in enumerate(keys):
        points = [
            (int(r["step"]), loss_terms(r)[key] / chance_levels(r)[key])
            for r in train
            if chance_levels(r).get(key, 0) > 0 and key in loss_terms(r)
        ]
        if not points:
            continue
        x, y = [p[0] for p in points], [p[1] for p in points]
        axes.plot(x, y, color=_level_color(theme, level), linewidth=1.3, label=f"level {level}")
        top = max(top, *y)
    axes.axhline(1, color=theme.muted, linewidth=1, linestyle=(0, (3, 2)))
    if top > 5:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, min(1.05 * top, 2.0))
    _legend(axes, theme)
    return True


def _knn(axes: Axes, history: History, result: dict[str, Any], theme: Theme) -> bool:
    x, y = series(history.records.evaluations, "knn")
    if not x:
        return False
    knn = result["convergence"]["knn"]
    axes.fill_between(
        [0, x[-1] * 1.01],
        [100 * (knn["best"] - knn["noise"])] * 2,
        [100 * knn["best"]] * 2,
        color=theme.line,
        alpha=0.5,
        linewidth=0,
    )
    axes.plot(x, [100 * v for v in y], color=theme.levels[0], linewidth=1.4, marker="o", markersize=3.2)
    axes.plot(
        [knn["best_step"]], [100 * knn["best"]], marker="o", markersize=7, markerfacecolor="none", color=theme.levels[1]
    )
    axes.set_ylim(0, 118 * max(y) or 1)
    axes.annotate(
        "best; band: within noise of it",
        (0.97, 0.06),
        xycoords="axes fraction",
        ha="right",
        fontsize=7,
        color=theme.muted,
    )
    return True


def _features(axes: Axes, history: History, theme: Theme) -> bool:
    count = len(history.records.evaluations)
    if history.records.untrained is None or not count:
        return False
    steps = [0, *(int(r["step"]) for r in history.records.evaluations)]
    measures = [history.measures(at) for at in range(count)]
    for name, label, style in _MEASURES:
        for level in range(len(measures[0])):
            y = [1.0, *(m[level][name] if level < len(m) else None for m in measures)]
            points = [(a, b) for a, b in zip(steps, y, strict=True) if b is not None and b > 0]
            axes.plot(
                [p[0] for p in points], [p[1] for p in points], color=_level_color(theme, level), linestyle=style, linewidth=1.2,
                label=label if level == 0 else None,
            )  # fmt: skip
    axes.axhline(history.config.health.rank[1], color=_LIGHTS["red"], linewidth=1, linestyle=(0, (1, 1.5)))
    # Ratios: half as much is as far from 1 as twice as much.
    axes.set_yscale("log")
    _plain_log(axes)
    _legend(axes, theme)
    return True


def _terms(axes: Axes, history: History, theme: Theme) -> bool:
    names = [name for name in dict.fromkeys(n for r in history.records.train for n in loss_terms(r)) if "/" not in name]
    drawn = False
    for place, name in enumerate(names):
        x, y = series(history.records.train, name)
        low = min((v for v in y if v > 0), default=0)
        if not low:
            continue
        axes.plot(
            x,
            [v / low for v in y],
            color=theme.classes[place % len(theme.classes)],
            linewidth=1.2,
            label=name.replace("_", " "),
        )
        drawn = True
    if drawn:
        axes.set_yscale("log")
        _plain_log(axes)
        _legend(axes, theme)
    return drawn


def _gradient(axes: Axes, history: History, result: dict[str, Any], theme: Theme) -> bool:
    x, y = series(history.records.train, "grad_norm")
    if not x:
        return False
    axes.plot(x, y, color=theme.text, linewidth=1.1)
    jumps = result["stability"]["gradient"]["jumps"]
    axes.plot([j["step"] for j in jumps], [j["value"] for j in jumps], "o", color=_LIGHTS["red"], markersize=4)
    if min(y) > 0:
        axes.set_yscale("log")
        _plain_log(axes)
    for step in result["stability"]["resumed"]:
        axes.axvline(step, color=theme.muted, linewidth=0.8, linestyle=(0, (1, 2)))
    return True


def _time(axes: Axes, result: dict[str, Any], theme: Theme) -> bool:
    fast = result["speed"]
    if fast is None:
        return False
    names = {
        "training": "training",
        "waiting_for_data": "waiting\nfor data",
        "evaluation": "evaluation",
        "other": "other",
    }
    values = [100 * fast["shares"][name] for name in names]
    bars = axes.barh(range(len(names)), values, color=theme.levels[0], height=0.55)
    bars[0].set_color(theme.levels[2])
    axes.set_yticks(range(len(names)), list(names.values()), fontsize=7.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 118)
    axes.set_xticks([0, 50, 100])
    axes.grid(visible=False)
    for place, value in enumerate(values):
        axes.text(value + 2, place, f"{value:.1f}", va="center", fontsize=7.5, color=theme.text)
    axes.set_xlabel(f"{fast['images_per_second']['median']:.0f} images/s", fontsize=8, color=theme.muted)
    box = axes.get_position()
    axes.set_position((box.x0 + 0.03, box.y0, box.width - 0.03, box.height))
    return True


def _strip(figure: MatplotlibFigure, result: dict[str, Any], theme: Theme, right: float) -> None:
    axes = figure.add_axes((0.05, 0.03, 0.925, 0.03))
    axes.set_facecolor(theme.background)
    start = 0
    for part in result["health"]["course"]:
        axes.axvspan(start, part["to"], color=_LIGHTS[part["light"]], linewidth=0)
        start = part["to"]
    for action in result["health"]["actions"]:
        axes.axvline(action["step"], color=theme.text, linewidth=1.5)
    axes.set_xlim(0, right)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    light = result["health"]["light"]
    axes.set_title(
        f"Health light over the run{f', {light} at the end' if light else ', not recorded'}",
        loc="left",
        fontsize=8.5,
        color=theme.text,
        pad=3,
    )


def _plain_log(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    if high / low < 30:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if 1e-3 <= value < 1e4 else f"{value:.0e}")
    )
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes, theme: Theme) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False, labelcolor=theme.text, handlelength=1.6, loc="best", borderaxespad=0.2)


def _level_color(theme: Theme, level: int) -> str:
    return theme.levels[level % len(theme.levels)]
