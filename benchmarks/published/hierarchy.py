"""Several levels compared with one: paired seeds with an interval, equal FLOP, single pairs."""

from __future__ import annotations

from typing import Any

from benchmarks.published.log import Log
from benchmarks.published.readings import Published, Reading, as_of_today, cell_of
from benchmarks.published.text import change, points, table
from benchmarks.published.work import compared, flop_per_image, work_of

EQUAL_WORK = "hierarchy_equal_work"
# Studies with paired seeds: name, cell of several levels, cell of one level, what the recipe was.
PAIRED = (
    ("hierarchy_infonce", "three levels", "flat", "AdamW, no regulariser, equal predictors"),
    ("hierarchy_fair", "three levels", "flat", "AdamW, no regulariser, wider predictor for one level"),
)
# Pairs of rows of the log: several levels, one level, what the recipe was.
PAIRS = (
    ("F5", "F6", "`cifar10_cpu`, width 192, regulariser 0.6"),
    ("F8", "F9", "the same, regulariser 0.15"),
    ("F1", "F3", "width 128, regulariser 0.6"),
    ("L7", "L9", "width 128, regulariser 0.15"),
    ("L8", "L11", "width 128, no regulariser"),
    ("C22", "C23", "width 128, regulariser 0.6"),
    ("C24", "C25", "the same, also predicting visible cells"),
)
# Full-length runs that were evaluated after every block: row of the log, folder, what it is, file.
SIX_BLOCKS = (
    ("F5", "cifar10_cpu/width_192", "four levels", "six_blocks.json"),
    ("F7", "cifar10_cpu/width_192/seed_1", "four levels, seed 1", "six_blocks.json"),
    ("F8", "cifar10_cpu/width_192/regulariser_0.15", "four levels, regulariser 0.15", "results.json"),
    ("F6", "cifar10_cpu/width_192/flat", "one level", "six_blocks.json"),
    ("F10", "cifar10_cpu/width_192/six_levels", "six levels", "results.json"),
)


def claim(published: Published) -> str:
    """The main result, in one paragraph."""
    study, several, one, _ = PAIRED[1]
    tree = published.study(study)
    row = cell_of(tree, several)
    work = compared(_cell_work(row), _cell_work(cell_of(tree, one)))
    log = Log(published)
    long = [log.difference(a, b) for a, b, _ in PAIRS if a.startswith("F")]
    return (
        f"{_claim_at_equal_work(published)}In shorter runs ({row['images']:,} images, {len(tree['seeds'])} paired seeds, "
        f"test), three levels are better by {_interval(row, 'linear_probe/depths')} points with {work}. In {len(long)} "
        f"single pairs of full-length runs, with more FLOP for four levels, the difference is {change(min(long))} to "
        f"{change(max(long))}."
    )


def difference_in_short(published: Published) -> str:
    """The difference at equal FLOP in a sentence for the README; empty without the study."""
    found = _at_equal_work(published)
    if found is None:
        return ""
    return (
        f"The row with one level is one seed. {_differences(found[1])} ([several levels compared with "
        "one](docs/results/hierarchy.md))."
    )


def _claim_at_equal_work(published: Published) -> str:
    found = _at_equal_work(published)
    return (
        ""
        if found is None
        else f"{_differences(found[1])}. CIFAR-10 (JPEG copy), evaluated on {found[0]['split']} images. "
    )


def _differences(row: dict[str, Any]) -> str:
    """The differences at equal FLOP, the last level and k-NN included, so that nobody hears the best of them alone."""
    count = row["difference"]["linear_probe/depths"]["count"]
    return (
        f"**At equal FLOP, {row['name']} minus one level is {_interval(row, 'linear_probe/depths')} points of linear probe "
        f"and {_interval(row, 'knn/depths')} of k-NN**, both evaluated at the same depths, and "
        f"{_interval(row, 'linear_probe/last')} points of linear probe on the last level alone ({count} paired seeds, "
        f"{row['images']:,} images per run, 95 % intervals)"
    )


def _at_equal_work(published: Published) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The study and its cell of several levels."""
    if not (published.root / EQUAL_WORK / "results.json").is_file():
        return None
    tree = published.json(f"{EQUAL_WORK}/results.json")
    (row,) = [row for row in tree["cells"] if row["name"] != tree["reference"]]
    return tree, row


def paired(published: Published) -> str:
    """Differences with their interval, one row per study."""
    header = (
        "several levels minus one", "seeds", "images", "linear, same depths", "linear, last level",
        "k-NN-20, same depths", "k-NN-20, last level", "FLOP of several levels",
    )  # fmt: skip
    rows = []
    for name, several, one, recipe in PAIRED:
        tree = published.study(name)
        rows.append(_difference_line(tree, several, one, f"{recipe} ([data](recipe/{name}.json))"))
    return table(header, rows, left=(0, 7))


def equal_work(published: Published) -> str:
    """The study at equal FLOP, once its files exist."""
    files = sorted((published.root / EQUAL_WORK).glob("*.json"))
    studies = [(file.name, published.json(f"{EQUAL_WORK}/{file.name}")) for file in files]
    studies = [(name, tree) for name, tree in studies if "cells" in tree]
    if not studies:
        return (
            "Not measured yet: one level with a predictor wide enough for the same FLOP, paired seeds, at least 200,000 "
            "images, evaluated on validation images."
        )
    parts = []
    for name, tree in studies:
        reference = tree["reference"]
        data = tree["data"]
        # Studies from before there was a validation split have `test_images`.
        read = f"{data['images']:,} {tree['split']}" if "split" in tree else f"{data['test_images']:,} test"
        others = [row["name"] for row in tree["cells"] if row["name"] != reference]
        header = (
            f"minus {reference}", "seeds", "images", "linear, same depths", "linear, last level",
            "k-NN-20, same depths", "k-NN-20, last level", "FLOP",
        )  # fmt: skip
        lines = [_difference_line(tree, other, reference, f"{other} ([data]({EQUAL_WORK}/{name}))") for other in others]
        parts.append(f"{tree['question']} Evaluated on {read} images.\n\n{table(header, lines, left=(0, 7))}")
    return "\n\n".join(parts)


def pairs(published: Published) -> str:
    """Single pairs of runs, the longest first."""
    log = Log(published)
    header = (
        "pair", "recipe", "images", "linear, same depths", "linear, last level", "k-NN-20, same depths",
        "k-NN-20, last level", "FLOP of several levels",
    )  # fmt: skip
    rows = []
    for several, one, recipe in PAIRS:
        a, b = log.reading(several), log.reading(one)
        name = f"[{several}](recipe.md#{several.lower()}) over [{one}](recipe.md#{one.lower()})"
        rows.append(_pair_line(name, recipe, a, b))
    a, b = (published.cell("hierarchy_visible", name) for name in ("four levels", "flat"))
    rows.append(_pair_line("[seed 1](recipe/hierarchy_visible.json)", "C24 over C25, the other seed", a, b))
    return table(header, rows, left=(0, 1, 7))


def work_of_pairs(published: Published) -> str:
    """Which side of the single pairs needs more FLOP."""
    log = Log(published)
    dearer, total = 0, 0
    for several, one, _ in PAIRS:
        a, b = log.reading(several), log.reading(one)
        dearer += work_of(a) > 1.0005 * work_of(b)
        total += 1
    a, b = log.reading("F5"), log.reading("F6")
    return (
        f"In {dearer} of the {total} pairs from the log, the runs with several levels need more FLOP. For the preset, F5 needs "
        f"{work_of(a) / 1e6:.0f} MFLOP per image and F6 {work_of(b) / 1e6:.0f}: {compared(work_of(a), work_of(b))} with four levels."
    )


def six_blocks(published: Published) -> str:
    """Full-length runs evaluated after every block, and the gain over four depths."""
    log = Log(published)
    header = (
        "evaluated after all six blocks", "linear", "k-NN-20", "untrained: linear, k-NN-20",
        "gain over depths 1, 2, 4, 6: linear, k-NN-20",
    )  # fmt: skip
    rows = []
    for number, folder, name, file in SIX_BLOCKS:
        tree = published.json(f"{folder}/{file}")
        at = (
            "_depths"
            if "trained_depths" in tree["linear_probe"] and tuple(tree["depths"]) == (1, 2, 3, 4, 5, 6)
            else ""
        )
        linear, knn = (100 * tree[part][f"trained{at}"] for part in ("linear_probe", "knn"))
        raw = [tree[part].get(f"untrained{at}") for part in ("linear_probe", "knn")]
        untrained = ", ".join(points(100 * value) for value in raw if value is not None)
        four = log.figures(number)
        gain = f"{change(linear - four.linear)}, {change(knn - four.knn)}"
        rows.append(
            [
                f"{name} ([{number}](recipe.md#{number.lower()}), [data]({folder}/{file}))",
                points(linear),
                points(knn),
                untrained,
                gain,
            ]
        )
    return table(header, rows)


def six_blocks_said(published: Published) -> str:
    """The gain of four levels over one if every block is evaluated."""
    tree = {name: published.json(f"{folder}/six_blocks.json") for name, folder in
            (("four", "cifar10_cpu/width_192"), ("one", "cifar10_cpu/width_192/flat"))}  # fmt: skip
    linear, knn = (
        100 * (tree["four"][part]["trained_depths"] - tree["one"][part]["trained_depths"])
        for part in ("linear_probe", "knn")
    )
    log = Log(published)
    return (
        f"The difference between four levels (F5) and one (F6) is {change(linear)} points of linear probe if all six blocks are "
        f"evaluated, and {change(log.difference('F5', 'F6'))} at four depths. In k-NN it is {change(knn)} and "
        f"{change(log.difference('F5', 'F6', 'knn'))}."
    )


def _difference_line(tree: dict[str, Any], several: str, one: str, name: str) -> list[str]:
    row, other = cell_of(tree, several), cell_of(tree, one)
    keys = ("linear_probe/depths", "linear_probe/last", "knn/depths", "knn/last")
    return [
        name,
        str(len([run for run in row["runs"] if "failed" not in run])),
        f"{row['images']:,}" + ("" if row["images"] == other["images"] else f" over {other['images']:,}"),
        *(_interval(row, key) for key in keys),
        compared(_cell_work(row) * row["images"], _cell_work(other) * other["images"]),
    ]


def _interval(row: dict[str, Any], key: str) -> str:
    found = row["difference"].get(key)
    if found is None:
        return ""
    text = change(100 * found["mean"])
    if found["low"] is not None:
        text += f" [{change(100 * found['low'])}, {change(100 * found['high'])}]"
    return text


def _pair_line(name: str, recipe: str, a: Reading, b: Reading) -> list[str]:
    parts = ((a.linear, b.linear), (a.last, b.last), (a.knn, b.knn), (a.last_knn, b.last_knn))
    differences = [f"{points(x)} - {points(y)} = {change(x - y)}" for x, y in parts]
    return [name, recipe, f"{a.images:,}", *differences, compared(work_of(a), work_of(b))]


def _cell_work(row: dict[str, Any]) -> float:
    config = as_of_today(row["config"])
    assert config is not None
    return flop_per_image(config)
