"""The page of the quick start."""

from __future__ import annotations

from typing import Any

from benchmarks.published.overview import QUICK, QUICK_TIMED
from benchmarks.published.readings import Published, cell_of
from benchmarks.published.text import change, joined, minutes, points, spread, table

# Studies of cheaper steps, the shortest first; the cost of a step was measured with the cells of the first.
CHEAPER = ("quickstart_cheaper_short", "quickstart_cheaper")
# The preset before, whose predictor had two blocks of 128: five seeds in bf16; four in float32, and seed 0 repeated.
BEFORE = tuple(f"quickstart/two_blocks/bf16/seed_{seed}" for seed in range(5))
BEFORE_FLOAT = tuple(f"quickstart/two_blocks/float32/seed_{seed}" for seed in ("0", "0_again", "1", "2", "3"))
HEADER = (
    "seed", "linear, all levels", "untrained", "gain", "linear, last level", "k-NN-20, all levels", "training", "files",
)  # fmt: skip


def seeds(published: Published) -> str:
    """Five seeds, with their mean."""
    return _seeds(published, QUICK, mean=True, timed=False)


def timed(published: Published) -> str:
    """A run in each precision on a quiet machine."""
    return _seeds(published, tuple(QUICK_TIMED.values()), mean=False, names=tuple(QUICK_TIMED))


def before_bf16(published: Published) -> str:
    """The preset before: five seeds in bf16, with their mean."""
    return _seeds(published, BEFORE, mean=True)


def before_float32(published: Published) -> str:
    """The preset before: four seeds in float32, the first of them twice."""
    return _seeds(published, BEFORE_FLOAT, mean=False)


def levels(published: Published) -> str:
    """Seed 0 by level, beside the controls."""
    tree = published.json(f"{QUICK[0]}/results.json")
    parts = tree["linear_probe"], tree["knn"]
    rows = [["trained, all levels", *(points(100 * part["trained"]) for part in parts)]]
    last = len(parts[0]["levels"]) - 1
    for level in range(last + 1):
        name = f"trained, level {level}" + (" (last)" if level == last else "")
        rows.append([name, *(points(100 * part["levels"][level]["trained"]) for part in parts)])
    rows.append(["untrained, all levels", *(points(100 * part["untrained"]) for part in parts)])
    rows.append(["PCA of pixels", *(points(100 * part["pca"]) for part in parts)])
    rows.append(["raw pixels", *(points(100 * part["pixels"]) for part in parts)])
    rows.append(["chance", *[points(100 * tree["chance"])] * 2])
    return table(("features", "linear probe", "k-NN-20"), rows)


def goals(published: Published) -> str:
    """The target of the quick start, and whether it was met."""
    gains = [_gain(published, folder) for folder in QUICK]
    times = [f"{minutes(published.seconds(folder))} in {precision}" for precision, folder in QUICK_TIMED.items()]
    met = sum(gain >= 20 for gain in gains)
    goal = sum(gain >= 30 for gain in gains)
    labels = 100 * published.json("shapes_difficulty.json")["supervised"]
    return (
        "The target was a linear probe 20 points above that of the untrained encoder, after at most four minutes of training. "
        f"{met} of {len(gains)} seeds gain at least 20 points and {goal} at least 30; training took "
        f"{' and '.join(times)}. The same encoder trained with labels on the same number of images reaches {points(labels)}."
    )


def cheaper(published: Published) -> str:
    """Cost of cheaper steps and, once the studies have run, their loss of accuracy by seed."""
    header = ["cell", "GFLOP per image", "CPU time (quartiles)"]
    studies = [name for name in CHEAPER if (published.root / f"recipe/{name}.json").is_file()]
    for name in studies:
        images = f"{published.study(name)['cells'][0]['images']:,} images"
        header += [f"linear, {images}", "minus the first row, by seed", "k-NN-20", "minus the first row, by seed"]
    cost = {row["cell"]: row for row in published.json("recipe/quickstart_cheaper_cost.json")["cell_cost"]}
    rows = []
    for name, found in cost.items():
        quartiles = f"{found['lower quartile']:.2f} to {found['upper quartile']:.2f}"
        ratio = "1" if found["FLOP ratio"] == 1 else f"{found['ratio']:.2f} ({quartiles})"
        line = [name, f"{found['GFLOP per image']:.2f}", ratio]
        for study in studies:
            tree = published.study(study)
            if name not in {cell["name"] for cell in tree["cells"]}:
                line += ["not measured", "", "", ""]
                continue
            ours, first = (_by_seed(cell_of(tree, cell)) for cell in (name, tree["reference"]))
            for part in ("linear_probe/all", "knn/all"):
                values = [100 * run[part] for run in ours.values()]
                pairs = [100 * (run[part] - first[seed][part]) for seed, run in ours.items() if seed in first]
                line += [
                    points(sum(values) / len(values)),
                    "" if name == tree["reference"] else joined([change(p) for p in pairs]),
                ]
        rows.append(line)
    return table(header, rows)


def _by_seed(cell: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {run["seed"]: run for run in cell["runs"] if "failed" not in run}


def shapes(published: Published) -> str:
    """Accuracy of simple and supervised classifiers on the built-in set."""
    tree = published.json("shapes_difficulty.json")
    rows = [
        ["chance", points(100 * tree["chance"])],
        ["raw pixels, linear probe", points(100 * tree["pixels_linear"])],
        ["raw pixels, k-NN-20", points(100 * tree["pixels_knn_20"])],
        [
            f"supervised encoder, {tree['supervised_images']:,} images, {tree['supervised_seconds']:.0f} s",
            points(100 * tree["supervised"]),
        ],
    ]
    about = (
        f"{tree['train_images']:,} training and {tree['test_images']:,} test images, version {tree['shapes_version']}."
    )
    return f"{table(('classifier', 'test accuracy'), rows)}\n\n{about}"


def _gain(published: Published, folder: str) -> float:
    tree = published.json(f"{folder}/results.json")["linear_probe"]
    return 100 * float(tree["trained"] - tree["untrained"])


def _seeds(
    published: Published, folders: tuple[str, ...], *, mean: bool, timed: bool = True, names: tuple[str, ...] = ()
) -> str:
    """One row per run folder.

    Args:
        mean: add a row with the means.
        timed: show the times of training.
        names: shown beside the seed.
    """
    rows = []
    columns: list[list[float]] = [[], [], [], []]
    for number, folder in enumerate(folders):
        reading, tree = published.run(folder), published.json(f"{folder}/results.json")
        gain = _gain(published, folder)
        for column, value in zip(columns, (reading.linear, gain, reading.last, reading.knn), strict=True):
            column.append(value)
        files = f"[results]({folder}/results.json), [environment]({folder}/environment.json)"
        again = ", repeated" if folder.endswith("again") else ""
        name = f", {names[number]}" if names else ""
        line = [f"{tree['seed']}{again}{name}", points(reading.linear), points(100 * tree["linear_probe"]["untrained"])]
        line += [
            change(gain),
            points(reading.last),
            points(reading.knn),
            minutes(published.seconds(folder) if timed else None),
            files,
        ]
        rows.append(line)
    if mean:
        linear, gain_, last, knn = columns
        rows.append(["mean ± 95 %", spread(linear), "", spread(gain_, sign=True), spread(last), spread(knn), "", ""])
    return table(HEADER, rows, left=(0, 7))
