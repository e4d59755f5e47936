"""Analyse a run from its files: how it is doing, what is wrong, and what to do next."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hjepa.analysis.convergence import convergence
from hjepa.analysis.diagnosis import Diagnosis, diagnose
from hjepa.analysis.figure import analysis_figure
from hjepa.analysis.history import History, read_history
from hjepa.analysis.lights import lights
from hjepa.analysis.markdown import markdown
from hjepa.analysis.recommend import recommend
from hjepa.analysis.speed import projections, speed
from hjepa.analysis.stability import stability, terms
from hjepa.health.verdict import judge
from hjepa.runtime.outputs import check_outputs, write_bytes, write_json, write_text
from hjepa.version import __version__
from hjepa.visualization.figures.style import LIGHT, to_png

FILES = ("analysis.md", "analysis.png", "analysis.json")


def analyze(run: str | Path, *, output: str | Path | None = None, force: bool = False) -> dict[str, Any]:
    """Analyse a run that is running, finished, stopped or broken, and write ``analysis.md``, ``.png`` and ``.json``.

    Only files of the run folder are read, no images and no weights. What an old run did not record is listed as missing.

    Args:
        run: a run folder, or a checkpoint in one.
        output: folder to write; the run folder by default.
        force: overwrite files of an earlier analysis.

    Returns:
        the contents of ``analysis.json``: ``status``, ``diagnosis``, ``convergence``, ``speed``, ``stability``, ``health``,
        ``terms``, ``problems``, ``projections``, ``recommendation``, ``missing`` and ``protocol``.

    Raises:
        UserError: no run folder, files that exist, or a folder that cannot be written.
    """
    history = read_history(run)
    folder = history.folder if output is None else Path(output)
    paths = [folder / name for name in FILES]
    for path in paths:
        check_outputs([path], (path.suffix,), force=force)
    result = analysis(history)
    write_text(paths[0], markdown(result))
    write_bytes(paths[1], to_png(analysis_figure(history, result, LIGHT)))
    write_json(paths[2], result)
    return result


def analysis(history: History) -> dict[str, Any]:
    """The contents of ``analysis.json``."""
    converged, fast = convergence(history), speed(history)
    diagnosis = diagnose(history)
    found = {
        "run": str(history.folder),
        "name": history.config.logging.experiment_name,
        "method": history.config.method,
        "status": {
            "state": history.status(),
            "step": history.step,
            "total_steps": history.total_steps,
            "epoch": history.epoch,
            "epochs": float(history.config.training.epochs),
        },
        "diagnosis": {
            "state": diagnosis.state,
            "headline": diagnosis.headline,
            "meaning": diagnosis.meaning,
            "evidence": list(diagnosis.evidence),
        },
        "convergence": converged,
        "speed": fast,
        "stability": stability(history),
        "health": lights(history),
        "terms": terms(history),
        "problems": _problems(history, diagnosis),
        "projections": projections(history, fast),
        "recommendation": recommend(history, diagnosis, converged).as_dict(),
        "missing": history.missing,
        "protocol": _PROTOCOL,
        "hjepa": __version__,
    }
    return finite(found)  # type: ignore[no-any-return]


_PROTOCOL = (
    "From metrics.jsonl, training.log and config.yaml alone. k-NN is the online one, on a split of train. Rising: the "
    "least-squares line through the last third of the evaluations gains more than one standard error of a difference. "
    "Shares of the untrained encoder: measures of the last online evaluation over those at step 0, on the same images. "
    "Terms and levels: means of a twentieth of the records. Times of other numbers of epochs: time per epoch so far, "
    "evaluations and checkpoints included. Limits: the section health of the run's configuration."
)


def _problems(history: History, diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """Findings of the rules of `hjepa.health` that are not good news, and what they advise."""
    if diagnosis.state == "no_records":
        return []
    return [
        {"kind": finding.kind, "text": finding.text, "advice": finding.advice}
        for finding in judge(history.evidence()).findings
        if finding.kind in ("bad", "warn")
    ]


def finite(value: Any) -> Any:
    """Plain values without NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
