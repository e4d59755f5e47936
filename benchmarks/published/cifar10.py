"""The page of CIFAR-10 on two cores."""

from __future__ import annotations

from benchmarks.published.overview import CIFAR, CIFAR_128
from benchmarks.published.readings import Published
from benchmarks.published.text import change, minutes, points, table

WIDE, NARROW = CIFAR[0], CIFAR_128[0]
BLOCKS = (1, 2, 4, 6)


def levels(published: Published) -> str:
    """The preset by level, beside untrained encoder and controls."""
    tree = published.json(f"{WIDE}/results.json")
    six = published.json(f"{WIDE}/six_blocks.json")
    parts, more = (tree["linear_probe"], tree["knn"]), (six["linear_probe"], six["knn"])
    rows = [["all levels", *(points(100 * p["trained"]) for p in parts), points(tree["rank"]["trained"])]]
    rows[0] += [points(100 * p["untrained"]) for p in parts]
    for level, block in enumerate(BLOCKS):
        name = f"level {level}, after block {block}"
        found = [p["levels"][level] for p in parts]
        rows.append([name, *(points(100 * f["trained"]) for f in found)])
        rows[-1] += [points(tree["rank"]["levels"][level]["trained"]), *(points(100 * f["untrained"]) for f in found)]
    rows.append([f"after every block ([data]({WIDE}/six_blocks.json))"])
    rows[-1] += [
        *(points(100 * p["trained_depths"]) for p in more),
        "",
        *(points(100 * p["untrained_depths"]) for p in more),
    ]
    for name, key in (("PCA of pixels", "pca"), ("raw pixels", "pixels")):
        rows.append([name, *(points(100 * p[key]) for p in parts), "", "", ""])
    rows.append(["chance", *[points(100 * tree["chance"])] * 2, "", "", ""])
    return table(("features", "linear probe", "k-NN-20", "rank", "untrained: linear", "untrained: k-NN-20"), rows)


def seeds(published: Published) -> str:
    """Both seeds of the preset."""
    return _seeds(published, CIFAR)


def levels_128(published: Published) -> str:
    """The previous recipe by level, with two sizes of the probe's training set."""
    trees = [published.json(f"{NARROW}/{name}") for name in ("results.json", "results_20000.json")]
    tree = trees[0]
    parts = [t[part] for t in trees for part in ("linear_probe", "knn")]
    rows = [["all levels", *(points(100 * p["trained"]) for p in parts[:2]), points(tree["rank"]["trained"])]]
    rows[0] += [points(100 * p["trained"]) for p in parts[2:]]
    for level, block in enumerate(BLOCKS):
        found = [p["levels"][level]["trained"] for p in parts]
        rows.append([f"level {level}, after block {block}", *(points(100 * f) for f in found[:2])])
        rows[-1] += [points(tree["rank"]["levels"][level]["trained"]), *(points(100 * f) for f in found[2:])]
    for name, key in (("untrained, all levels", "untrained"), ("PCA of pixels", "pca"), ("raw pixels", "pixels")):
        values = [points(100 * p[key]) for p in parts]
        rows.append([name, *values[:2], points(tree["rank"]["untrained"]) if key == "untrained" else "", *values[2:]])
    header = ("features", "linear probe", "k-NN-20", "rank", "linear, 20,000 images", "k-NN-20, 20,000 images")
    return table(header, rows)


def seeds_128(published: Published) -> str:
    """Both seeds of the previous recipe."""
    return _seeds(published, CIFAR_128)


def goal(published: Published) -> str:
    """The target accuracy on the levels, and how far it was missed."""
    values = [published.run(folder).linear for folder in CIFAR]
    start, before = published.run("cifar10_cpu/start"), published.run(NARROW, results="results_20000.json")
    return (
        f"The target was a linear probe of 68 on all levels; it was missed by {change(68 - max(values)).lstrip('+')} to "
        f"{change(68 - min(values)).lstrip('+')} points. With 20,000 images in the probe, the first recipe "
        f"([C1](recipe.md#c1)) reached {points(start.linear)} after {start.images:,} training images, and the previous "
        f"recipe (width 128) {points(before.linear)} after {before.images:,}."
    )


def _seeds(published: Published, folders: tuple[str, ...]) -> str:
    header = (
        "seed", "linear, all levels", "linear, last level", "k-NN-20, all levels", "k-NN-20, last level", "rank",
        "training", "files",
    )  # fmt: skip
    rows = []
    for folder in folders:
        reading, tree = published.run(folder), published.json(f"{folder}/results.json")
        names = {"results": "results.json", "metrics": "metrics.jsonl", "configuration": "config.yaml"}
        files = ", ".join(
            f"[{name}]({folder}/{file})" for name, file in {**names, "environment": "environment.json"}.items()
        )
        accuracies = [reading.linear, reading.last, reading.knn, reading.last_knn, reading.rank]
        rows.append([str(tree["seed"]), *map(points, accuracies), minutes(published.seconds(folder)), files])
    return table(header, rows, left=(0, 7))
