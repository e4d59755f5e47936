"""Does online k-NN rank runs as the final evaluation does?

For every finished run of some studies, the online estimate is computed with the weights of `last.pth` and compared with the
k-NN accuracy on validation images in `results_validation.json`, which uses all training images as references.

    python -m benchmarks.online_ranking runs/eq runs/qs --json docs/results/online_ranking.json

Three estimates are compared: every image classified by all others, with as many images as the limit on time allows for the
run; the same with `health.images` alone, which is all that the quick start can afford; and, with the same images as the
first, those of `health.images` classified by the further ones, as earlier versions did. Runs are compared in pairs within
a study. A pair is in wrong order if the estimates rank it the other way round, and clear if the final accuracies differ by
more than two standard errors.
"""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from benchmarks.report import Rows, parser, show, write
from hjepa.config import load_config
from hjepa.data import build_dataset
from hjepa.metrics import accuracy, knn_predict, leave_one_out
from hjepa.runs.load import load_run
from hjepa.training.online import OnlineEvaluation

ESTIMATES = ("all images", "health images alone", "split in two")
_K = 20


def features(folder: Path, data_path: str | None) -> dict[str, Any]:
    """Features of the online images of a run, their labels, and how many are those of `health.images`."""
    run = load_run(folder, device="cpu")
    keys = {} if data_path is None else {"data.data_path": data_path}
    config = load_config(run.config.model_dump(mode="json"), keys)
    dataset = build_dataset(config.data, "train", seed=config.seed)
    assert dataset.labels is not None
    online = OnlineEvaluation(config, dataset, run.mean, run.std, torch.device("cpu"))
    first, rows = online.pooled(run.encoder, online.measured)
    second, others = online.pooled(run.encoder, online.further)
    return {"x": torch.cat([first, second]), "y": dataset.labels[torch.cat([rows, others])], "n": len(first)}


def estimates(found: dict[str, Any]) -> dict[str, float]:
    """Online k-NN accuracy, in the ways of `ESTIMATES`."""
    x, y, n = found["x"], found["y"], found["n"]
    split = knn_predict(x[n:], y[n:], x[:n], k=_K)[_K]
    ways = (leave_one_out(x, y, k=_K), leave_one_out(x[:n], y[:n], k=_K), split)
    return {name: accuracy(way, y[: len(way)]) for name, way in zip(ESTIMATES, ways, strict=True)}


def ranking(runs: list[dict[str, Any]], name: str) -> dict[str, float | int]:
    """How well an estimate ranks runs.

    Returns:
        Spearman's rank correlation with the final accuracy, and pairs: all, those in wrong order, the largest difference of
        the final accuracy among the latter, clear ones, and clear ones in wrong order.
    """
    pairs = list(combinations(runs, 2))
    wrong = [p for p in pairs if (p[0]["final"] - p[1]["final"]) * (p[0][name] - p[1][name]) < 0]
    return {
        "spearman": float(spearmanr([run["final"] for run in runs], [run[name] for run in runs]).statistic),
        "pairs": len(pairs),
        "wrong": len(wrong),
        "largest_wrong": max((abs(a["final"] - b["final"]) for a, b in wrong), default=0.0),
        "clear": sum(map(_clear, pairs)),
        "clear_wrong": sum(map(_clear, wrong)),
    }


def _clear(pair: tuple[dict[str, Any], dict[str, Any]]) -> bool:
    a, b = (run["final"] for run in pair)
    variance = sum(run["final"] * (1 - run["final"]) / run["final_images"] for run in pair)
    return bool(abs(a - b) > 2 * math.sqrt(variance))


def main() -> None:
    """Command line."""
    arguments = parser(__doc__)
    arguments.add_argument("studies", nargs="+", type=Path, help="folders of `hjepa ablate`")
    arguments.add_argument("--data-path", help="where the images of all studies with a data.data_path are")
    arguments.add_argument(
        "--cache", type=Path, metavar="FILE", help="keep the features here, and use those already there"
    )
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    kept = torch.load(options.cache) if options.cache is not None and options.cache.is_file() else {}
    found: list[dict[str, Any]] = []
    for study in options.studies:
        for folder in sorted(study.glob("cells/*/seed_*")):
            if not (folder / "results_validation.json").is_file() or not (folder / "checkpoints/last.pth").is_file():
                continue
            key = (study.name, folder.parent.name, folder.name)
            if key not in kept:
                own = load_config(folder / "config.yaml").data.data_path
                kept[key] = features(folder, options.data_path if own else None)
                if options.cache is not None:
                    torch.save(kept, options.cache)
            final = json.loads((folder / "results_validation.json").read_text())
            about = {"study": study.name, "cell": folder.parent.name, "seed": int(folder.name.removeprefix("seed_"))}
            sizes = {
                "final_images": final["images"],
                "online_images": len(kept[key]["x"]),
                "health_images": kept[key]["n"],
            }
            found.append(about | {"final": final["knn"]["trained"]} | estimates(kept[key]) | sizes)
    summary = {
        study: {name: ranking(runs, name) for name in ESTIMATES}
        for study in dict.fromkeys(run["study"] for run in found)
        if len(runs := [run for run in found if run["study"] == study]) > 2
    }
    rows: Rows = [
        {"run": f"{run['study']} {run['cell']} seed {run['seed']}"}
        | {name: run[name] for name in ("final", *ESTIMATES)}
        for run in found
    ]
    show(rows)
    for study, by in summary.items():
        show([{"study": study, "estimate": name, **r} for name, r in by.items()])
    write(options.json, "online_ranking", {"runs": found, "ranking": summary})


if __name__ == "__main__":
    main()
