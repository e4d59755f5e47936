"""Rules about the training of a run and the reliability of its numbers; see `hjepa.health.feature_rules`."""

from __future__ import annotations

import math

from hjepa.health.evidence import Evidence, listing, percent
from hjepa.health.finding import Finding, finished, train_longer
from hjepa.runs.records import series

LONG_RUN = 50_000
"""Optimiser steps at or above which an EMA momentum that ends at 1 has been found to work."""
SHORT_RUN = 10_000
"""Optimiser steps below which a run is short; published runs take tens of thousands."""
WAITING = 0.10
SEED_SPREAD = 0.03
"""Typical difference in accuracy between seeds on small data sets."""


# -- the course of training ------------------------------------------------------------------------------------------


def knn_trend(e: Evidence) -> Finding | None:
    """If k-NN still rises at the end, train longer. If it fell from its peak, the last checkpoint is not the best."""
    steps, values = series(e.seen.evaluations, "knn")
    if len(values) < 3:
        return None
    queries = max(1, e.seen.evaluations[-1].get("knn_queries", 1))
    error = math.sqrt(2 * max(0.01, values[-1] * (1 - values[-1])) / queries)
    top = max(values)
    if top - values[-1] > max(0.02, 2 * error):
        peak = int(steps[values.index(top)])
        return Finding(
            "warn",
            f"Online k-NN peaked at {percent(top)} (step {peak}) and ended at {percent(values[-1])}.",
            "Use `best_model.pth` instead of `last.pth`. An EMA momentum near 1 often causes a late drop: lower "
            "`model.ema.momentum_end`.",
        )
    since = values[-1] - values[(2 * len(values)) // 3 - 1]
    if since > max(0.01, error):
        return Finding(
            "note",
            f"Online k-NN was still rising at the end, by {100 * since:.1f} points over the last third of the evaluations.",
            train_longer(e),
        )
    return None


def short_run(e: Evidence) -> Finding | None:
    """Runs below `SHORT_RUN` steps usually end before accuracy saturates."""
    total = e.total_steps
    if total is None or total >= SHORT_RUN or not finished(e):
        return None
    return Finding(
        "note",
        f"This was a short run: {total:,} steps. Accuracy usually keeps rising for many times as many.",
        train_longer(e),
    )


def stopped_early(e: Evidence) -> Finding | None:
    """A run that stops early ends with a learning rate that has not decayed, so its accuracy is provisional."""
    total = e.total_steps
    if total is None or finished(e):
        return None
    if e.last_step > e.step:
        return Finding(
            "note", f"This is an earlier checkpoint: step {e.step} of a run that reached step {e.last_step}."
        )
    if e.records.early_stop is not None and e.records.early_stop["step"] == e.step:
        stop = e.records.early_stop
        return Finding(
            "note",
            f"The run was stopped early at step {e.step} of {total}: {stop['reason']}. The learning rate was still at "
            f"{stop['lr_over_peak']:.0%} of its peak.",
            f"Features usually gain most while the learning rate decays: compare with a run of "
            f"`training.epochs={e.epochs or 0:.3g}`, whose schedule ends here.",
        )
    return Finding(
        "note",
        f"The run stopped at step {e.step} of {total} ({e.step / total:.0%}): its schedules are unfinished, so all numbers "
        "here are provisional.",
        f"Continue with `hjepa train --output-dir {e.run} --resume auto`.",
    )


def momentum_freezes(e: Evidence) -> Finding | None:
    """An EMA momentum of 1 freezes the target encoder, which lowers the final accuracy of short runs."""
    ema, total = e.config.model.ema, e.total_steps
    if ema.momentum_end < 0.99995 or total is None or total >= LONG_RUN:
        return None
    if not any("momentum" in record for record in e.records.train):
        return None  # the method has no moving average
    constant = f"{ema.momentum:g}" if ema.momentum < 0.99995 else "0.999"
    return Finding(
        "note",
        f"The EMA momentum ends at {ema.momentum_end:g}, which freezes the target encoder before a run as short as {total} "
        "steps ends.",
        f"Compare with a constant momentum, `model.ema.momentum_end={constant}`.",
    )


def waiting_for_data(e: Evidence) -> Finding | None:
    """If training waits for data more than a tenth of the time, loading limits its speed."""
    _, shares = series(e.seen.train, "data_wait")
    late = shares[len(shares) // 2 :]
    if not late or sum(late) / len(late) <= WAITING:
        return None
    data = e.config.data
    cure = f"raise `data.num_workers` (now {data.num_workers})"
    if data.storage != "device":
        cure += ", or keep the images on the device if memory allows (`data.storage=device`)"
    return Finding(
        "warn", f"{sum(late) / len(late):.0%} of the time was spent waiting for data.", cure[0].upper() + cure[1:] + "."
    )


def skipped_updates(e: Evidence) -> Finding | None:
    """Updates skipped for gradients that are not finite. With fp16 the loss scaler causes a few by design."""
    count = e.seen.skipped_updates()
    scaled = e.config.training.use_amp and e.config.training.amp_dtype == "fp16"
    if count == 0 or (scaled and count < 0.01 * e.step):
        return None
    return Finding(
        "warn",
        f"{count} of {e.step} updates were skipped because the gradient was not finite.",
        "Lower `training.lr`, set `training.clip_grad=1`, or use `training.amp_dtype=bf16` instead of fp16.",
    )


# -- can the numbers be trusted? -------------------------------------------------------------------------------------


def not_evaluated(e: Evidence) -> Finding | None:
    """There are no results, the tasks were skipped, or only test images were evaluated."""
    if e.results is None:
        return Finding(
            "note",
            "There is no `results.json`, so the model is not compared with controls.",
            f"Evaluate with `hjepa evaluate --checkpoint {e.run}`, then create this report again.",
        )
    if e.main is None and e.skipped is not None:
        return Finding(
            "note",
            f"Linear probe and k-NN were skipped: {e.skipped}. Only loss and effective rank remain.",
            "Evaluate the features on a small labelled data set: `hjepa evaluate --dataset NAME --data-path PATH`.",
        )
    if e.main is None:
        return Finding(
            "note",
            "`results.json` has no comparison on validation images, and test images must not guide the next run.",
            f"Evaluate with `hjepa evaluate --checkpoint {e.run} --split validation`, then create this report again.",
        )
    return None


def results_of_another_step(e: Evidence) -> Finding | None:
    """Results belong to the run, figures to the checkpoint, so their steps may differ."""
    step = (e.results or {}).get("step")
    if step is None or int(step) == e.step:
        return None
    return Finding(
        "warn",
        f"`results.json` was measured at step {step}, but this checkpoint is at step {e.step}.",
        f"Evaluate again with `hjepa evaluate --checkpoint {e.run}`.",
    )


def one_seed(e: Evidence) -> Finding | None:
    """Small differences need more than one seed."""
    main = e.main
    if main is None:
        return None
    close = [
        name
        for name, difference in (("the untrained encoder", main.over_untrained), ("raw pixels", main.over_pixels))
        if abs(difference) < SEED_SPREAD
    ]
    if not close:
        return None
    return Finding(
        "note",
        f"The difference to {listing(close)} is below {100 * SEED_SPREAD:.0f} points, about as much as another seed changes.",
        "Repeat with two more seeds (`--seed`) before drawing a conclusion.",
    )
