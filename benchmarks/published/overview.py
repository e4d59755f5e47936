"""The summary tables: results, README, presets and models."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.published.gpu import in_short
from benchmarks.published.hierarchy import difference_in_short
from benchmarks.published.log import Log
from benchmarks.published.readings import FOUR_DEPTHS, Published, Reading
from benchmarks.published.selection import flattered
from benchmarks.published.text import joined, minutes, points, spread, table
from benchmarks.published.work import compared, work_of

# Seeds 0 to 3 ran on one thread each beside other work, so that only the two timed runs tell how long a quick start takes.
QUICK = (*(f"quickstart/seed_{seed}" for seed in range(4)), "quickstart/timed/bf16")
QUICK_TIMED = {"bf16": "quickstart/timed/bf16", "float32": "quickstart/timed/float32"}
CIFAR = ("cifar10_cpu/width_192", "cifar10_cpu/width_192/seed_1")
CIFAR_128 = ("cifar10_cpu", "cifar10_cpu/seed_1")
FLAT = "cifar10_cpu/width_192/flat"


def summary(published: Published) -> str:
    """Six rows: accuracy of each preset and of its controls, data, number of seeds and training time."""
    header = ("preset", "data", "linear probe", "k-NN-20", "untrained: linear, k-NN-20", "seeds", "training, two cores")
    rows = [
        _quick(published),
        _row(published, "[`cifar10_cpu`](cifar10.md)", "CIFAR-10 (JPEG copy)", CIFAR),
        _six_blocks(published),
        _row(published, "[one level](hierarchy.md) instead of four", "CIFAR-10 (JPEG copy)", (FLAT,), FOUR_DEPTHS),
        _row(published, "[the previous recipe](cifar10.md), width 128", "CIFAR-10 (JPEG copy)", CIFAR_128),
    ]
    return table(header, rows, left=(0, 1))


def readme(published: Published) -> str:
    """The table of the README."""
    seeds = [published.run(folder) for folder in CIFAR]
    trees = [published.json(f"{folder}/results.json") for folder in CIFAR]
    flat = published.run(FLAT, FOUR_DEPTHS)
    work = compared(work_of(seeds[0]), work_of(flat))
    time = minutes(published.seconds(CIFAR[0]))
    first = trees[0]
    rows = [
        [f"`cifar10_cpu`: four levels, {time} on two CPU cores; seeds 0 and 1", *_seeds(seeds)],
        [
            f"one level instead of four, same number of images (four levels need {work}); seed 0",
            points(flat.linear),
            points(flat.knn),
        ],
        ["the same encoder untrained", *_control(first, "untrained")],
        ["raw pixels", *_control(first, "pixels")],
    ]
    parts = [
        table(("CIFAR-10 (JPEG copy)", "linear probe", "k-NN-20"), rows),
        difference_in_short(published),
        flattered(published),
    ]
    return "\n\n".join(part for part in parts if part)


def presets(published: Published) -> str:
    """Every preset with its results."""
    quick = [published.run(folder) for folder in QUICK]
    times = [published.seconds(folder) or 0 for folder in QUICK_TIMED.values()]
    cifar = [published.run(folder) for folder in CIFAR]
    tree = published.json(f"{CIFAR[0]}/results.json")
    raw = [published.json(f"{folder}/results.json") for folder in QUICK]
    untrained = [spread([100 * t[part]["untrained"] for t in raw]) for part in ("linear_probe", "knn")]
    quick_said = (
        f"{spread([r.linear for r in quick])}, {spread([r.knn for r in quick])} over five seeds; untrained "
        f"{joined(untrained)}; {minutes(min(times))} to {minutes(max(times))} of training ([all](results/quickstart.md))"
    )
    seeds = _seeds(cifar)
    cifar_said = (
        f"linear {seeds[0]}, k-NN {seeds[1]} (two seeds); untrained {joined(_control(tree, 'untrained'))} "
        "([all](results/cifar10.md))"
    )
    cifar_for = (
        f"CIFAR-10 on a laptop: {minutes(tree['training_seconds'])} on two cores with bf16 instructions; not "
        "measured without them at this width"
    )
    rows = [
        [
            "`quickstart`",
            "a few minutes on two cores, built-in data",
            "ViT 128 x 6, patch 4, 1.2 M",
            "54 k",
            quick_said,
        ],
        ["`cifar10_cpu`", cifar_for, "ViT 192 x 6, patch 4, 2.7 M", "0.8 M", cifar_said],
        ["`cifar10`", "CIFAR-10, one GPU", "ViT 320 x 8, patch 4, 9.9 M", "5 M", "not yet"],
        [
            "`cifar10_fast`",
            "CIFAR-10, one GPU, least time",
            "ViT 256 x 6, patch 4, 4.8 M",
            "1.5 M",
            in_short(published),
        ],
        ["`imagenette`", "ten classes of ImageNet, one GPU", "ViT-S/16", "1.9 M", "not yet"],
        ["`imagenet100`", "ImageNet-100, one GPU", "ViT-S/16", "25 M", "not yet"],
        ["`imagenet1k`", "ImageNet-1k, eight GPUs", "ViT-B/16", "384 M", "not yet"],
    ]
    header = ("preset", "for", "encoder", "images seen", "measured: linear probe, k-NN-20 on all levels")
    return table(header, rows, left=range(5))


def models(published: Published) -> str:
    """The models that come with the package."""
    first = published.run(CIFAR[0])
    time = minutes(published.seconds(CIFAR[0]))
    trained = f"CIFAR-10 (JPEG copy) without labels, {time} on two CPU cores"
    encoder = "ViT 192 x 6, patch 4, 32 px, 2.7 M parameters, four levels"
    card = "[card](../src/hjepa/zoo/models/hjepa-tiny-cifar10/README.md)"
    line = [
        "`hjepa-tiny-cifar10`",
        trained,
        encoder,
        "half precision, 5.4 MB",
        points(first.linear),
        points(first.knn),
        card,
    ]
    header = ("model", "trained on", "encoder", "weights", "linear probe", "k-NN-20", "card")
    linear, knn, _ = _blocks(published, CIFAR[0])
    return (
        f"{table(header, [line], left=(0, 1, 2, 3, 6))}\n\nLinear probe and k-NN use all four levels, on test "
        f"images. With the features [after every block](results/hierarchy.md#evaluated-after-every-block) they are {linear} and "
        f"{knn}. The recipe was [chosen by test accuracy](results/README.md#how-the-results-were-measured)."
    )


def disclosure(published: Published) -> str:
    """How many comparisons on test the recipe was chosen by."""
    log = Log(published)
    experiments = [number for number in log.rows if re.fullmatch(r"[SCLF]\d+", number)]
    adopted = [number for number in experiments if "**adopted" in log.rows[number]["decision"]]
    links = ", ".join(f"[{number}](recipe.md#{number.lower()})" for number in adopted)
    return (
        f"The [log](recipe.md) has {len(experiments)} numbered experiments, compared by their accuracy on test images; "
        f"{len(adopted)} were adopted ({links})."
    )


def _row(
    published: Published, preset: str, data: str, folders: tuple[str, ...], depths: tuple[int, ...] = ()
) -> list[str]:
    readings = [published.run(folder, depths) for folder in folders]
    trees = [published.json(f"{folder}/results.json") for folder in folders]
    at = "_depths" if depths and "untrained_depths" in trees[0]["linear_probe"] else ""
    untrained = [[100 * tree[part][f"untrained{at}"] for tree in trees] for part in ("linear_probe", "knn")]
    times = sorted(seconds for folder in folders if (seconds := published.seconds(folder)) is not None)
    time = (
        " to ".join(dict.fromkeys(minutes(seconds) for seconds in (times[0], times[-1]))) if times else "not recorded"
    )
    raw = (
        joined([_over(values) for values in untrained])
        if len(trees) > 2
        else joined(_control(trees[0], f"untrained{at}"))
    )
    return [preset, data, *_seeds(readings), raw, str(len(folders)), time]


def _quick(published: Published) -> list[str]:
    """The row of the quick start, with the times of the timed runs."""
    row = _row(published, "[`quickstart`](quickstart.md)", "shapes v2", QUICK)
    times = [f"{minutes(published.seconds(folder))} ({precision})" for precision, folder in QUICK_TIMED.items()]
    return [*row[:-1], joined(times)]


def _six_blocks(published: Published) -> list[str]:
    found = [_blocks(published, folder) for folder in CIFAR]
    columns = [joined([line[i] for line in found]) for i in (0, 1)]
    name = "the same, [evaluated after every block](hierarchy.md#evaluated-after-every-block)"
    return [name, "CIFAR-10 (JPEG copy)", *columns, found[0][2], str(len(found)), "the same runs"]


def _blocks(published: Published, folder: str) -> tuple[str, str, str]:
    tree = published.json(f"{folder}/six_blocks.json")
    parts = [tree[part] for part in ("linear_probe", "knn")]
    linear, knn = (points(100 * part["trained_depths"]) for part in parts)
    return linear, knn, joined([points(100 * part["untrained_depths"]) for part in parts])


def _seeds(readings: list[Reading]) -> list[str]:
    """Linear probe and k-NN: both seeds, or mean and interval of more."""
    parts = [[r.linear for r in readings], [r.knn for r in readings]]
    return [_over(values) for values in parts]


def _over(values: list[float]) -> str:
    return spread(values) if len(values) > 2 else joined([points(value) for value in values])


def _control(tree: dict[str, Any], name: str) -> list[str]:
    return [points(100 * tree[part][name]) for part in ("linear_probe", "knn")]
