"""Tables on health: six runs that fail on purpose, and whether online k-NN ranks runs as the final evaluation does."""

from __future__ import annotations

from typing import Any

from benchmarks.published.readings import Published
from benchmarks.published.text import points, table

RUNS, RANKING = "six_runs.json", "online_ranking.json"
_ESTIMATES = ("all images", "health images alone", "split in two")
_STUDIES = {"eq": "four levels against one (CIFAR-10)", "qs": "cheaper steps (shapes)"}


def six_runs(published: Published) -> str:
    """One row a run: the light at the end, what turned it, and what was done."""
    header = ("run", "what is wrong", "light at the end", "first worst sign", "limit", "step", "also red", "actions")
    rows = [_run(name, run) for name, run in published.json(RUNS)["runs"].items()]
    return table(header, rows, left=(0, 1, 2, 3, 4, 6, 7))


def _run(name: str, run: dict[str, Any]) -> list[str]:
    first = run["first"]
    done = [f"{', '.join(action['actions']) or 'none possible'} at {action['at']}" for action in run["actions"]]
    also = [f"`{figure}`" for figure in run["red"] if first is None or figure != first["figure"]]
    sign = ["none", "", ""]
    if first is not None:
        side = "below" if first["value"] < first["limit"] else "above"
        where = f" of {first['where']}" if first["where"] else ""
        sign = [f"`{first['figure']}`{where}: {first['value']:.3g}", f"{first['light']} {side} {first['limit']:g}"]
        sign.append(str(first["step"]))
    return [name, run["cause"], run["light"], *sign, ", ".join(also), "; ".join(done) or "none"]


def ranking(published: Published) -> str:
    """How well three estimates rank the runs of each study."""
    tree = published.json(RANKING)
    header = ("study", "estimate", "images", "rank correlation", "pairs in wrong order", "clear pairs in wrong order")
    rows = []
    for study, by in tree["ranking"].items():
        runs = [run for run in tree["runs"] if run["study"] == study]
        sizes = {name: runs[0]["health_images" if "alone" in name else "online_images"] for name in _ESTIMATES}
        for name in _ESTIMATES:
            r = by[name]
            counts = [f"{r['wrong']} of {r['pairs']}", f"{r['clear_wrong']} of {r['clear']}"]
            rows.append([_STUDIES.get(study, study), name, f"{sizes[name]:,}", f"{r['spearman']:.2f}", *counts])
    return table(header, rows, left=(0, 1))


def runs(published: Published) -> str:
    """The accuracies behind `ranking`."""
    header = ("run", "final k-NN", *(f"online: {name}" for name in _ESTIMATES))
    rows = [
        [
            f"{_STUDIES.get(run['study'], run['study'])}: {run['cell'].replace('-', ' ')}, seed {run['seed']}",
            *(points(100 * run[name]) for name in ("final", *_ESTIMATES)),
        ]
        for run in published.json(RANKING)["runs"]
    ]
    return table(header, rows)
