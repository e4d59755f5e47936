"""The summary at the top of a report: what was run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hjepa.config.grid import per_axis, shown
from hjepa.methods import HJepa

if TYPE_CHECKING:
    from hjepa.config import Geometry
    from hjepa.data import ViewSpec
    from hjepa.health.evidence import Evidence
    from hjepa.masking import MaskSampler
    from hjepa.runs.load import TrainedRun


def level_name(geometry: Geometry, level: int) -> str:
    """Name of a level for legends, such as "level 1 (block 4, 8x8)"."""
    return f"level {level} (block {geometry.levels[level].depth}, {times(*geometry.level_grid(level))})"


def run_summary(
    run: TrainedRun,
    sampler: MaskSampler | None,
    description: str,
    environment: dict[str, Any] | None,
    evidence: Evidence,
) -> list[tuple[str, str]]:
    """The summary as pairs of term and description.

    Args:
        run: the run.
        sampler: its mask sampler; None if the method predicts no masked regions.
        description: the data set in a few words.
        environment: contents of ``environment.json``; None without that file.
        evidence: records of the run.
    """
    recorded = environment or {}
    return [
        ("Images", _images(run, description)),
        ("Encoder", _encoder(run)),
        ("Levels", _levels(run)),
        *_method(run, sampler),
        ("Training", _training(run, evidence)),
        ("Device", _device(recorded, evidence)),
        ("Code", _code(recorded)),
        ("Seed", str(run.config.seed)),
    ]


def _method(run: TrainedRun, sampler: MaskSampler | None) -> list[tuple[str, str]]:
    """Predictor, masks and objective; of a method without them its name alone, as it ignores their sections."""
    if sampler is None:
        return [("Method", run.config.method)]
    return [("Predictor", _predictor(run)), ("Masks", _masks(run, sampler)), ("Objective", _objective(run))]


def subtitle(run: TrainedRun, description: str, evidence: Evidence) -> str:
    """The run in one line."""
    g = run.encoder.geometry
    levels = "flat (one level)" if len(g.levels) == 1 else f"{len(g.levels)} levels"
    epochs = evidence.epochs
    length = _many(run.step, "step") if epochs is None else f"{epochs:.3g} epoch{'' if epochs == 1 else 's'}"
    patch = f"patch {shown(g.patch_size)} at {times(*g.image_size)}"
    return f"{description} \N{MIDDLE DOT} ViT {times(g.embed_dim, g.depth)}, {patch} \N{MIDDLE DOT} {levels} \N{MIDDLE DOT} {length}"


def _images(run: TrainedRun, description: str) -> str:
    subset = run.config.data.subset
    part = f", subset of {subset:,}" if subset is not None else ""
    size, channels = run.encoder.geometry.image_size, _many(run.channels, "channel")
    views = "; ".join(_view(view, size) for view in run.method.views())
    return f"{description}{part}; seen at {times(*size)}, {channels}; {views}"


def _view(view: ViewSpec, size: tuple[int, ...]) -> str:
    """A kind of view in words: crops, and what is changed in them."""
    crop = f"random crops of {view.scale[0]:g} to {view.scale[1]:g} of the area" if view.random_crop else "centre crops"
    parts = [f"{view.count} {crop} per image" if view.count > 1 else crop]
    if view.size != size:
        parts[0] += f" at {times(*view.size)}"
    if view.flip:
        parts.append("flips")
    if view.color_jitter:
        parts.append(f"colour jitter {view.color_jitter:g}")
    changes = {"greyscale": view.grayscale, "blur": view.blur, "solarisation": view.solarize}
    parts += [f"{name} of {share:.0%}" for name, share in changes.items() if share]
    return ", ".join(parts)


def _encoder(run: TrainedRun) -> str:
    g = run.encoder.geometry
    return (
        f"ViT, width {g.embed_dim}, {_many(g.depth, 'block')}, {_many(g.num_heads, 'head')}, patch {shown(g.patch_size)}, {times(*g.grid)} tokens, "
        f"{_count(run.encoder)} parameters"
    )


def _levels(run: TrainedRun) -> str:
    g = run.encoder.geometry
    parts = []
    for i, level in enumerate(g.levels):
        if level.stride == 0:
            parts.append(f"{i}: after block {level.depth}, averaged over the whole image")
            continue
        pooled = f", pooled {times(*per_axis(level.stride, g.axes))}" if level.stride != 1 else ""
        parts.append(f"{i}: after block {level.depth}{pooled}, {times(*g.level_grid(i))} cells")
    flat = " (flat I-JEPA)" if len(parts) == 1 and isinstance(run.method, HJepa) else ""
    return "; ".join(parts) + flat


def _predictor(run: TrainedRun) -> str:
    p, g = run.config.model.predictor, run.encoder.geometry
    several = len(g.levels) > 1
    shared = (", shared by all levels" if p.sharing == "shared" else ", one per level") if several else ""
    return f"{_many(p.depth, 'block')} of width {g.predictor_dim}, {_many(g.predictor_heads, 'head')}{shared}; {_count(run.model.predictors)} parameters"


def _masks(run: TrainedRun, sampler: MaskSampler) -> str:
    counts, masking = sampler.counts, run.config.masking
    targets = "/".join(map(str, counts.targets)) if len(set(counts.targets)) > 1 else str(counts.targets[0])
    names = {"multiblock": "multi-block", "hierarchical": "hierarchical blocks", "random": "random"}
    blocks = (
        ""
        if masking.strategy == "random"
        else f", {masking.num_masks} blocks of {masking.mask_scale[0]:g} to {masking.mask_scale[1]:g}"
    )
    sets = f", {masking.sets_per_image} sets per image" if masking.sets_per_image > 1 else ""
    return (
        f"{names[masking.strategy]}{blocks}: {counts.context} of {run.encoder.geometry.num_tokens} tokens seen, {targets} cells "
        f"predicted{' per level' if run.encoder.num_levels > 1 else ''}{sets}"
    )


def _objective(run: TrainedRun) -> str:
    loss = run.config.loss
    names = {"smoothl1": "smooth L1", "mse": "MSE", "l1": "L1", "cosine": "cosine", "infonce": "InfoNCE"}
    parts = [names[loss.type] + (" of unit vectors" if loss.normalize_embeddings else "")]
    if loss.hierarchy_weights is not None and run.encoder.num_levels > 1:
        parts.append("level weights " + "/".join(f"{w:g}" for w in loss.hierarchy_weights))
    terms = {
        "variance": loss.variance_loss_weight,
        "covariance": loss.covariance_loss_weight,
        "sliced Gaussian": loss.sliced_gaussian_weight,
    }
    parts += [f"{name} {weight:g}" for name, weight in terms.items() if weight]
    ema = run.config.model.ema
    course = f"{ema.momentum:g}" if ema.momentum == ema.momentum_end else f"{ema.momentum:g} to {ema.momentum_end:g}"
    return ", ".join(parts) + f"; EMA momentum {course}"


def _training(run: TrainedRun, evidence: Evidence) -> str:
    training = run.config.training
    total = evidence.total_steps
    planned = f" of {total:,}" if total is not None else ""
    epochs = "" if evidence.epochs is None else f", {evidence.epochs:.3g} of {training.epochs:g} epochs"
    batch = f"batch {run.config.data.batch_size}"
    if training.accumulation_steps > 1:
        batch += f" \N{MULTIPLICATION SIGN} {training.accumulation_steps} accumulated"
    optimizer = {"adamw": "AdamW", "muon": "Muon (AdamW for the rest)"}[training.optimizer]
    return (
        f"step {run.step:,}{planned}{epochs}; {batch}; {optimizer}, learning rate {training.lr:g}, {training.lr_schedule}, "
        f"weight decay {training.weight_decay:g}"
    )


def _device(environment: dict[str, Any], evidence: Evidence) -> str:
    if not environment:
        return "not recorded (no environment.json)"
    name = environment.get("device_name") or environment.get("device") or "unknown"
    parts = [str(name)]
    if str(environment.get("device", "")).startswith("cpu"):
        parts = ["CPU" if name in ("cpu", "") else f"CPU ({name})", _threads(environment.get("threads"))]
    processes = environment.get("processes", 1)
    if processes != 1:
        parts.append(f"{processes} processes")
    seconds = evidence.seen.seconds
    if seconds is not None:
        parts.append(f"{duration(seconds)} of training")
    return ", ".join(parts)


def _code(environment: dict[str, Any]) -> str:
    if not environment:
        return "not recorded (no environment.json)"
    commit = environment.get("commit")
    parts = [f"hjepa {environment.get('hjepa', '?')}", f"commit {commit}" if commit else "commit not recorded"]
    parts += [f"PyTorch {environment.get('torch', '?')}", f"Python {environment.get('python', '?')}"]
    return ", ".join(parts)


def times(*sizes: int) -> str:
    """Sizes joined by multiplication signs, such as "8×8"."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, sizes))


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _threads(number: int | None) -> str:
    return "threads not recorded" if number is None else _many(number, "thread")


def _count(module: Any) -> str:
    number = sum(p.numel() for p in module.parameters())
    return f"{number / 1e6:.3g} M" if number >= 1e5 else f"{number / 1e3:.3g} k"


def duration(seconds: float) -> str:
    """Seconds as "4 min 55 s" or "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
