"""One command to run next, and why."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from hjepa.analysis.diagnosis import Diagnosis
from hjepa.analysis.history import History
from hjepa.health.training_rules import SHORT_RUN

# Below these, a value is the likely cause of a failure.
_LOW_MOMENTUM, _USUAL_MOMENTUM = 0.9, 0.99
_USUAL_WEIGHT = 0.15
_LOW_LR, _USUAL_LR = 1e-5, 1e-3


@dataclass(frozen=True)
class Recommendation:
    """What to do next.

    Attributes:
        command: a command line.
        why: the reason, in a sentence.
    """

    command: str
    why: str

    def as_dict(self) -> dict[str, str]:
        """Plain values for JSON."""
        return {"command": self.command, "why": self.why}


def recommend(history: History, diagnosis: Diagnosis, converged: dict[str, Any]) -> Recommendation:
    """The most useful next command for a run in this state."""
    state = diagnosis.state
    if state == "no_records":
        return _go_on(history, "Nothing was recorded yet.")
    if state == "diverging":
        return _diverging(history)
    if state == "stuck":
        return _stuck(history)
    if state == "collapsed":
        return _collapsed(history)
    if state == "late_collapse":
        return _late(history)
    if state == "position_shortcut":
        if history.config.model.position == "rope":
            return _again(
                history, ["masking.mask_scale=[0.1,0.15]"], "Smaller targets leave more context to predict from."
            )
        return _again(history, ["model.position=rope"], "With RoPE, positions are not added to the features.")
    if state == "dimension_collapsed":
        return _more_regularised(history, "Variance and covariance terms spread the features over more directions.")
    return _unfailed(history, converged)


def _diverging(history: History) -> Recommendation:
    training = history.config.training
    lr = _tamed(training.lr)
    keys = [f"training.lr={lr:g}"]
    if training.min_lr > lr:
        keys.append(f"training.min_lr={lr / 100:g}")
    if training.clip_grad is None:
        keys.append("training.clip_grad=1")
    return _again(history, keys, f"A learning rate of {training.lr:g} is too high for this model.")


def _stuck(history: History) -> Recommendation:
    lr = history.config.training.lr
    better = _USUAL_LR if lr < _LOW_LR else 10 * lr
    return _again(history, [f"training.lr={better:g}"], f"With a learning rate of {lr:g} the weights hardly change.")


def _collapsed(history: History) -> Recommendation:
    ema, training = history.config.model.ema, history.config.training
    if ema.momentum < _LOW_MOMENTUM:
        keys = [f"model.ema.momentum={_USUAL_MOMENTUM:g}"]
        if ema.momentum_end < _USUAL_MOMENTUM:
            keys.append("model.ema.momentum_end=1.0")
        return _again(
            history, keys, f"With a momentum of {ema.momentum:g} the targets follow the encoder into the same features."
        )
    if not history.config.loss.variance_loss_weight and not history.config.loss.sliced_gaussian_weight:
        return _more_regularised(history, "Nothing in the loss keeps the features of different images apart.")
    lr = training.lr / 3
    return _again(
        history, [f"training.lr={lr:.3g}"], "Momentum and regularisers are set, so the learning rate comes next."
    )


def _more_regularised(history: History, why: str) -> Recommendation:
    loss = history.config.loss
    weights = {
        "loss.variance_loss_weight": loss.variance_loss_weight,
        "loss.covariance_loss_weight": loss.covariance_loss_weight,
    }
    return _again(history, [f"{key}={3 * value if value else _USUAL_WEIGHT:g}" for key, value in weights.items()], why)


def _late(history: History) -> Recommendation:
    best = history.folder / "checkpoints" / "best_model.pth"
    if best.is_file():
        return Recommendation(
            f"hjepa evaluate --checkpoint {_quoted(str(best))} --split validation",
            "The best checkpoint is from before the fall.",
        )
    ema = history.config.model.ema
    return _again(
        history,
        [f"model.ema.momentum_end={ema.momentum:g}", "health.actions=[save,stop]"],
        "A momentum that nears 1 often causes a late fall; stop when it comes.",
    )


def _unfailed(history: History, converged: dict[str, Any]) -> Recommendation:
    status = history.status()
    if status == "running":
        return Recommendation(f"hjepa watch {_quoted(str(history.folder))}", "The run is in progress.")
    if status == "stopped early":
        why = f"It was stopped early ({history.stopped_early}); a schedule that ends there may reach more."
        return _again(history, [f"training.epochs={history.epoch:.3g}"], why, suffix="shorter")
    if status in ("stopped", "not started"):
        return _go_on(history, f"It stopped at step {history.step:,} of {history.total_steps or 0:,}.")
    knn, loss = converged["knn"], converged["loss"]
    rising = (knn is not None and knn["rising"]) or (knn is None and loss is not None and loss["falling"])
    if rising:
        epochs = 2 * float(history.config.training.epochs)
        what = "Online k-NN was still rising" if knn is not None else "The loss was still falling"
        return _again(history, [f"training.epochs={epochs:g}"], f"{what} at the end.", suffix="longer")
    total = history.total_steps or 0
    if total < SHORT_RUN and (knn is None or knn["below_best"] <= knn["noise"]):
        epochs = 2 * float(history.config.training.epochs)
        why = f"It was short, {total:,} steps; accuracy usually keeps rising for many times as many."
        return _again(history, [f"training.epochs={epochs:g}"], why, suffix="longer")
    if history.results is None:
        return Recommendation(
            f"hjepa evaluate --checkpoint {_quoted(str(history.folder))} --split validation",
            "It has converged, and was not compared with its controls yet.",
        )
    return _again(
        history,
        [f"seed={history.config.seed + 1}"],
        "It has converged. Another seed shows how far its results scatter.",
        suffix=f"seed{history.config.seed + 1}",
    )


def _go_on(history: History, why: str) -> Recommendation:
    return Recommendation(f"hjepa train --output-dir {_quoted(str(history.folder))} --resume auto", why)


def _again(history: History, keys: list[str], why: str, *, suffix: str = "next") -> Recommendation:
    """Train from the start with some keys changed, into another folder."""
    folder = history.folder
    words = [
        "hjepa train --config",
        _quoted(str(folder / "config.yaml")),
        "--output-dir",
        _quoted(f"{str(folder).rstrip('/')}-{suffix}"),
        *map(_quoted, keys),
        *(["training.max_steps=null"] if history.config.training.max_steps is not None else []),
    ]
    return Recommendation(" ".join(words), why)


def _tamed(lr: float) -> float:
    """A learning rate that is not too high: a tenth, or the usual one if that is still lower."""
    return float(f"{min(lr / 10, _USUAL_LR if lr > 0.1 else lr / 10):.2g}")


def _quoted(word: str) -> str:
    return shlex.quote(word)
