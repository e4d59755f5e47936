"""Does online k-NN rank runs as the final evaluation does?

For every finished run of some studies, the online estimate of the present code is computed with the weights of
`last.pth` and compared with the k-NN accuracy on validation images in `results_validation.json`, which uses all
training images as references.

    python -m benchmarks.online_ranking runs/eq runs/qs --json docs/results/online_ranking.json

Two estimates are compared: with as many images as `evaluation.online_images` and the limit on time allow for the run, and
with `health.images` alone, which is all that the quick start can afford. Runs are compared in pairs within a study; a
pair is in wrong order if the estimates rank it the other way round.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from benchmarks.report import Rows, parser, show, write
from hjepa.config import Config, load_config
from hjepa.data import build_dataset
from hjepa.runs.load import load_run
from hjepa.training.online import OnlineEvaluation

ESTIMATES: dict[str, dict[str, Any]] = {"affordable": {}, "health images only": {"evaluation.online_images": 20}}


def estimates(folder: Path, data_path: str | None) -> dict[str, Any]:
    """Final and online k-NN accuracy of a finished run."""
    run = load_run(folder, device="cpu")
    final = json.loads((folder / "results_validation.json").read_text())
    found: dict[str, Any] = {"final": final["knn"]["trained"], "final_images": final["images"]}
    for name, keys in ESTIMATES.items():
        config = _config(run.config, {**keys, **({} if data_path is None else {"data.data_path": data_path})})
        dataset = build_dataset(config.data, "train", seed=config.seed)
        online = OnlineEvaluation(config, dataset, run.mean, run.std, torch.device("cpu"))
        values = online(run.encoder).values
        found[name] = values["knn"]
        found[f"{name}_images"] = int(values["knn_queries"])
    return found


def ranking(runs: list[dict[str, Any]], name: str) -> dict[str, float | int]:
    """How well an estimate ranks runs.

    Returns:
        Spearman's rank correlation with the final accuracy, and pairs: all, in wrong order, and the largest difference of
        the final accuracy among the latter.
    """
    final, online = ([run[key] for run in runs] for key in ("final", name))
    pairs = list(combinations(range(len(runs)), 2))
    wrong = [abs(final[a] - final[b]) for a, b in pairs if (final[a] - final[b]) * (online[a] - online[b]) < 0]
    return {
        "spearman": float(spearmanr(final, online).statistic),
        "pairs": len(pairs),
        "wrong": len(wrong),
        "largest_wrong": max(wrong, default=0.0),
    }


def _config(config: Config, keys: dict[str, Any]) -> Config:
    return load_config(config.model_dump(mode="json"), keys)


def main() -> None:
    """Command line."""
    arguments = parser(__doc__)
    arguments.add_argument("studies", nargs="+", type=Path, help="folders of `hjepa ablate`")
    arguments.add_argument("--data-path", help="where the images of all studies with a data.data_path are")
    options = arguments.parse_args()
    found: list[dict[str, Any]] = []
    for study in options.studies:
        for folder in sorted(study.glob("cells/*/seed_*")):
            if not (folder / "results_validation.json").is_file() or not (folder / "checkpoints/last.pth").is_file():
                continue
            own = load_config(folder / "config.yaml").data.data_path
            about = {"study": study.name, "cell": folder.parent.name, "seed": int(folder.name.removeprefix("seed_"))}
            found.append(about | estimates(folder, options.data_path if own else None))
    summary = {
        study: {name: ranking(runs, name) for name in ESTIMATES}
        for study in dict.fromkeys(run["study"] for run in found)
        if len(runs := [run for run in found if run["study"] == study]) > 2
    }
    rows: Rows = [
        {"run": f"{run['study']} {run['cell']} seed {run['seed']}"} | {name: run[name] for name in ("final", *ESTIMATES)}
        for run in found
    ]
    show(rows)
    for study, by in summary.items():
        for name, r in by.items():
            about = f"{r['wrong']} of {r['pairs']} pairs in wrong order, {100 * r['largest_wrong']:.1f} points apart at most"
            print(f"{study}, {name}: Spearman {r['spearman']:.2f}; {about}")
    write(options.json, "online_ranking", {"runs": found, "ranking": summary})


if __name__ == "__main__":
    main()
