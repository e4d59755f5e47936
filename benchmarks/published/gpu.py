"""The page of the runs on a GPU."""

from __future__ import annotations

from benchmarks.published.readings import Published
from benchmarks.published.text import minutes, points, table

FAST = "cifar10_gpu/fast"
STEP = "cifar10_gpu/step.json"
BLOCKS = (1, 2, 4, 6)


def levels(published: Published) -> str:
    """`cifar10_fast` by level, beside the untrained encoder and the controls, on test and validation images."""
    tree = published.json(f"{FAST}/results.json")
    parts = tree["linear_probe"], tree["knn"]
    seen = tree["validation"]["linear_probe"], tree["validation"]["knn"]
    rows = [["all levels", *(points(100 * p["trained"]) for p in parts), points(tree["rank"]["trained"])]]
    rows[0] += [points(100 * p["untrained"]) for p in parts] + [points(100 * p["trained"]) for p in seen]
    for level, block in enumerate(BLOCKS):
        found, beside = ([p["levels"][level] for p in which] for which in (parts, seen))
        row = [f"level {level}, after block {block}", *(points(100 * f["trained"]) for f in found)]
        row += [points(tree["rank"]["levels"][level]["trained"]), *(points(100 * f["untrained"]) for f in found)]
        rows.append([*row, *(points(100 * f["trained"]) for f in beside)])
    for name, key in (("PCA of pixels", "pca"), ("raw pixels", "pixels")):
        cells = [points(100 * p[key]) for p in parts], [points(100 * p[key]) for p in seen]
        rows.append([name, *cells[0], "", "", "", *cells[1]])
    header = (
        "features", "linear probe", "k-NN-20", "rank", "untrained: linear", "untrained: k-NN-20",
        "validation: linear", "validation: k-NN-20",
    )  # fmt: skip
    return table(header, rows)


def speed(published: Published) -> str:
    """Speed of the run and of a larger step on random images."""
    seconds = published.seconds(FAST)
    assert seconds is not None
    run = published.run(FAST)
    pace, batch = run.images / seconds, run.config["data"]["batch_size"]
    [case] = published.json(STEP)["gpu"].values()
    best = max(case["variants"], key=lambda row: row["images/s"])
    kernel = case["kernels"][0]
    busy = kernel["ms per step"] / kernel["share"]
    return (
        f"- The run took {minutes(seconds)} on one {case['device']}, compilation and evaluations during training included: "
        f"{pace:,.0f} images/s, {1e3 * batch / pace:.0f} ms for a step of {batch} images.\n"
        f"- A larger step, ViT-Tiny/4 with AdamW and {case['images_per_step']:,} random images, ran at "
        f"{best['images/s']:,.0f} images/s in {best['variant']}, {best['over first']:.2f} times the float32 step, "
        f"{100 * best['share of peak']:.0f} % of the measured peak of matrix products. Its kernels filled {busy:.0f} of "
        f"{best['ms']:.0f} ms; the rest of the time the GPU waited for the host ([data](step.json))."
    ).replace("(step.json)", f"({STEP})")


def in_short(published: Published) -> str:
    """The cell of the table of presets."""
    tree = published.json(f"{FAST}/results.json")
    parts = tree["linear_probe"], tree["knn"]
    trained, untrained = ([points(100 * part[key]) for part in parts] for key in ("trained", "untrained"))
    return (
        f"linear {trained[0]}, k-NN {trained[1]} (one seed); untrained {untrained[0]}, {untrained[1]}; "
        f"{minutes(published.seconds(FAST))} on one H200 ([all](results/gpu.md))"
    )
