"""The figure in the README: accuracy of features after each level, drawn from the files under docs/results.

    python -m benchmarks.figure            # writes docs/results/levels.png

The PNG file stores a digest of its numbers, and a test compares the digest with the files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.published.overview import CIFAR, FLAT
from benchmarks.published.readings import FOUR_DEPTHS, RESULTS, Published

PICTURE = RESULTS / "levels.png"
KEY = "Numbers"
PARTS = {"linear_probe": "linear probe", "knn": "k-NN-20"}


def numbers(published: Published) -> dict[str, dict[str, list[float]]]:
    """Accuracies in per cent by classifier and series: after each of four blocks, then all four concatenated."""
    four = published.json(f"{CIFAR[0]}/results.json")
    one = published.run(FLAT, FOUR_DEPTHS)
    found: dict[str, dict[str, list[float]]] = {}
    for part in PARTS:
        tree: dict[str, Any] = four[part]
        found[part] = {
            name: [100 * level[key] for level in tree["levels"]] + [100 * tree[key]]
            for name, key in (("four levels", "trained"), ("untrained", "untrained"))
        }
        found[part]["raw pixels"] = [100 * tree["pixels"]]
    found["linear_probe"]["one level"] = [one.last, one.linear]
    found["knn"]["one level"] = [one.last_knn, one.knn]
    return found


def digest(found: dict[str, Any]) -> str:
    """SHA-256 of the numbers, rounded to one decimal."""
    text = json.dumps(found, sort_keys=True, default=float)
    rounded = json.loads(text, parse_float=lambda number: round(float(number), 1))
    return hashlib.sha256(json.dumps(rounded, sort_keys=True).encode()).hexdigest()


def draw(found: dict[str, dict[str, list[float]]], file: Path) -> None:
    """Draw the figure and write it as PNG."""
    from hjepa.visualization.figures.style import LIGHT, new_figure, plain_axes

    ours, other, grey = LIGHT.levels[0], LIGHT.levels[1], LIGHT.other
    figure = new_figure(3.4, LIGHT)
    left, right = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.06, right=0.99, top=0.9, bottom=0.1, wspace=0.06)
    places = [0, 1, 2, 3, 4.6]
    for axes, (part, title) in zip((left, right), PARTS.items(), strict=True):
        series = found[part]
        plain_axes(axes, LIGHT, title)
        axes.axhline(series["raw pixels"][0], color=LIGHT.muted, linewidth=1, linestyle="--")
        axes.text(
            3.8, series["raw pixels"][0] - 0.6, "raw pixels", color=LIGHT.muted, fontsize=8, ha="center", va="top"
        )
        axes.vlines(places, series["untrained"], series["four levels"], color=ours, alpha=0.25, linewidth=6)
        axes.plot(places, series["untrained"], "o", color=grey, markersize=6, label="untrained")
        axes.plot(
            places[3:], series["one level"], "D", color=other, markersize=7, label="trained at one level, block 6"
        )
        axes.plot(places, series["four levels"], "o", color=ours, markersize=8, label="trained at four levels")
        for x, value in zip(places, series["four levels"], strict=True):
            axes.text(x, value + 1.4, f"{value:.1f}", color=ours, fontsize=9, ha="center")
        axes.set_xticks(places, ["block 1", "block 2", "block 4", "block 6", "all four"])
        axes.set_xlim(-0.5, 5.1)
        axes.set_ylim(25, 72)
    left.set_ylabel("test accuracy, %", fontsize=9, color=LIGHT.muted)
    left.legend(loc="lower right", fontsize=8, frameon=False, labelcolor=LIGHT.text)
    figure.savefig(file, metadata={KEY: digest(found), "Software": None})


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, default=PICTURE)
    given = options.parse_args(arguments)
    draw(numbers(Published()), given.output)
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
