"""Train six small runs, of which five go wrong on purpose, each in another way, and collect what health says.

    python -m benchmarks.six_runs --output-dir runs/six --json docs/results/six_runs.json

A run takes one to two minutes on one core and differs from the healthy one by a few keys; one whose records are already in
the folder is not trained again. The table in docs/health.md is
made from the file by `python -m benchmarks.tables`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hjepa
from benchmarks.report import Rows, parser, show, write
from hjepa.errors import DivergenceError, HealthError
from hjepa.methods import HJepa, StepOutput, register

if TYPE_CHECKING:
    from hjepa.data import Batch
    from hjepa.masking import Masks


@register("position_shortcut")
class PositionShortcut(HJepa):
    """Rewards features that say where a cell is instead of what it shows.

    Any real cause of such features (targets that only position predicts) acts through the loss too, but takes longer.
    """

    def forward(self, batch: Batch, plan: Masks, step: int) -> StepOutput:
        """Add the variance between images over that between positions, as a logarithm."""
        output = super().forward(batch, plan, step)
        for cells in self.model.context_encoder.levels(batch.images):
            cells = cells.float()
            content, place = cells.var(dim=0).mean(), cells.mean(dim=0).var(dim=0).mean()
            # With a floor, so that the gradient stays bounded as the share of the content vanishes.
            output.total = output.total + 2.0 * (content / place + 0.01).log()
        return output


BASE: dict[str, Any] = {
    "model.embed_dim": 64,
    "model.depth": 4,
    "model.num_heads": 2,
    "model.num_hierarchies": 2,
    "model.predictor.depth": 1,
    "model.predictor.embed_dim": 64,
    "model.predictor.num_heads": 2,
    "data.subset": 4000,
    "data.batch_size": 64,
    "training.num_threads": 1,
    "logging.log_frequency": 10,
    "evaluation.final": False,
    "health.patience": 1,
}
NONE = {"loss.variance_loss_weight": 0.0, "loss.covariance_loss_weight": 0.0}


def _momentum(value: float) -> dict[str, float]:
    return {"model.ema.momentum": value, "model.ema.momentum_end": value}


RUNS: dict[str, dict[str, Any]] = {
    "healthy": {"health.actions": ["save", "stop"]},
    "collapsed": {**NONE, **_momentum(0.0), "health.actions": ["save", "raise_momentum"]},
    "diverging": {"training.lr": 2.0, "training.clip_grad": None, "health.actions": ["lower_lr"]},
    "stuck": {"training.lr": 2.0e-7, "training.min_lr": 0.0, "health.actions": ["save"]},
    "position": {**NONE, "method": "position_shortcut", "health.actions": ["save", "lower_lr"]},
    "dimensions": {**NONE, **_momentum(0.9), "health.actions": ["stop"]},
}
CAUSES = {
    "healthy": "the quick start, smaller",
    "collapsed": "target without moving average (momentum 0), no regulariser",
    "diverging": "learning rate x 1,000, no clipping",
    "stuck": "learning rate x 0.0001",
    "position": "a loss that rewards position, no regulariser",
    "dimensions": "no regulariser, momentum 0.9",
}


def describe(folder: Path) -> dict[str, Any]:
    """What the records of a run say: how often each light was shown, the first red or else amber sign, the actions."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    shown = [line for line in lines if "health" in line]
    worst = max(shown, key=lambda line: line["light"])
    first = next(line for line in shown if line["light"] == worst["light"])
    counts = {light: sum(line["health"] == light for line in shown) for light in ("green", "amber", "red")}
    red = [sign for line in shown for sign in line.get("signs", ()) if sign["light"] == "red"]
    last = next((line for line in reversed(lines) if line["kind"] == "eval"), shown[-1])
    signs = first.get("signs", [])
    return {
        "light": last["health"],
        "worst": worst["health"],
        "records": counts,
        "first": {"step": first["step"], **signs[0]} if signs else None,
        "red": sorted({sign["figure"] for sign in red}),
        "last_signs": last.get("signs", []),
        "actions": [
            {"at": line["at"], "to": line["step"], "actions": line["actions"], "figure": line["signs"][0]["figure"]}
            for line in lines
            if line["kind"] == "health"
        ],
        "steps": last["step"],
        "knn": last.get("knn"),
    }


def train(name: str, folder: Path) -> None:
    """Train one of the runs, unless its records are already there. Health may stop it, and it may diverge."""
    if (folder / "metrics.jsonl").is_file():
        return
    try:
        hjepa.train("quickstart", output_dir=folder, overrides={**BASE, **RUNS[name]}, console=False)
    except (HealthError, DivergenceError) as error:
        print(f"{name}: {error}")


def main() -> None:
    """Command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--output-dir", type=Path, required=True, help="folder of the six run folders")
    arguments.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS), help="only these")
    options = arguments.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for name in options.runs:
        folder = options.output_dir / name
        train(name, folder)
        found[name] = {"cause": CAUSES[name], "keys": RUNS[name], **describe(folder)}
    rows: Rows = [
        {
            "run": name,
            "light": run["light"],
            "green/amber/red": "/".join(map(str, run["records"].values())),
            "figure": run["first"]["figure"] if run["first"] else "",
            "step": run["first"]["step"] if run["first"] else None,
            "actions": "; ".join(f"{', '.join(a['actions'])} at {a['at']}" for a in run["actions"]),
        }
        for name, run in found.items()
    ]
    show(rows)
    write(options.json, "six_runs", {"base": BASE, "runs": found})


if __name__ == "__main__":
    main()
