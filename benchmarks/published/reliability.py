"""The page of reliability: killed runs, damaged checkpoints, several processes."""

from __future__ import annotations

from benchmarks.published.readings import Published
from benchmarks.published.text import table

_PARTS = ("weights", "target", "moments", "losses")


def stress(published: Published) -> str:
    """Kills and damaged files."""
    kills = published.json("reliability_kill_resume.json")
    killed, damage = kills["total"], published.json("reliability_damaged_checkpoints.json")
    files = damage["total"]
    settings = len(kills["settings"])
    rows = [
        [
            f"runs killed at random moments ({killed['kills']} kills, {settings} settings)",
            f"{killed['runs']:,}",
            f"{killed['equal']:,} end bit-equal to an uninterrupted run, records included",
        ],
        [
            f"checkpoint files damaged ({len(damage['damage'])} ways)",
            f"{files['files']:,}",
            f"{files['noticed']:,} detected; {files['one_before_found']:,} times the previous checkpoint was found",
        ],
        ["runs resumed after such damage", f"{files['trained_on']:,}", f"{files['equal']:,} end bit-equal"],
    ]
    return table(("stress", "number", "outcome"), rows, left=(0, 2))


def processes(published: Published) -> str:
    """Largest absolute differences from one process."""
    runs = published.json("distribution_world_size.json")["runs"]
    rows = [[run["run"], *(f"{run[part]:.1e}" for part in _PARTS)] for run in runs if any(run[p] for p in _PARTS)]
    return table(("run", *_PARTS), rows)


def nodes(published: Published) -> str:
    """Two nodes, one of them killed in some runs."""
    tree = published.json("distribution_two_nodes.json")
    rows = []
    for run in tree["runs"]:
        result = "bit-equal" if run["bit-equal"] == "yes" else ", ".join(f"{p} {run[p]:.1e}" for p in _PARTS)
        rows.append([run["strategy"].upper(), run["run"], run["against"], str(run["step"]), result])
    seconds = sorted(found["seconds"] for found in tree["first node after the kill"])
    ended = f"The other node stopped with a one-line error {seconds[0]:.1f} to {seconds[-1]:.1f} s after the kill."
    return f"{table(('strategy', 'run', 'compared with', 'steps', 'result'), rows, left=(0, 1, 2, 4))}\n\n{ended}"
