"""The Python API: one function per command."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hjepa.config import Config, batch_advice, load_config
from hjepa.errors import EmptySplitError, UserError

if TYPE_CHECKING:
    from hjepa.benchmark.dry_run import DryRun
    from hjepa.research import StudyOutcome
    from hjepa.zoo import PretrainedEncoder

log = logging.getLogger("hjepa")

Overrides = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class RunResult:
    """Outcome of `train`.

    Attributes:
        run_dir: the run folder.
        checkpoint: the newest checkpoint.
        step: optimiser steps done.
        completed: whether all epochs are done.
        interrupted: whether it was stopped on request.
        stopped_early: why ``training.early_stopping`` ended it; None if it did not.
        results: contents of ``results.json``, empty when there was no final evaluation.
    """

    run_dir: Path
    checkpoint: Path
    step: int
    completed: bool
    interrupted: bool
    results: dict[str, Any] = field(default_factory=dict)
    stopped_early: str | None = None


def train(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    *,
    output_dir: str | Path | None = None,
    device: str | None = None,
    epochs: float | None = None,
    max_steps: int | None = None,
    seed: int | None = None,
    resume: str | Path | None = None,
    overrides: Overrides = (),
    profile: int | None = None,
    console: bool = True,
) -> RunResult:
    """Pretrain a model, evaluate it against its controls and write the report.

    Args:
        config: a configuration, a YAML file, a preset or a mapping. The default is the preset `quickstart` or, when
            resuming, the configuration of the checkpoint.
        output_dir: the run folder; overrides the configuration.
        device, epochs, max_steps, seed: override the configuration.
        resume: `auto` to continue an unfinished run in the run folder, or a checkpoint or run folder to continue from, in
            that run's own folder unless ``output_dir`` or ``logging.log_dir`` is given.
        overrides: ``["section.key=value", ...]`` or a mapping from dotted keys to values.
        profile: steps to profile after the first ones; writes ``profile.md`` and a trace for Perfetto to the run folder.
        console: show progress on standard output.

    Raises:
        UserError: invalid configuration, data or folders.

    Example:
        >>> import hjepa
        >>> result = hjepa.train("quickstart", output_dir="runs/first")  # doctest: +SKIP
        >>> result.results["linear_probe"]["trained"]  # doctest: +SKIP
    """
    # Importing PyTorch takes seconds; resolving first reports configuration errors at once.
    resolved = _resolve(config, output_dir, device, epochs, max_steps, seed, resume, overrides)
    from hjepa.training import run_training

    advice = None if resume is not None else batch_advice("quickstart" if config is None else config, resolved)
    if profile is not None and profile < 1:
        raise UserError(f"--profile: {profile} steps; use 1 or more")
    outcome = run_training(
        resolved, output_dir=output_dir, resume=resume, console=console, advice=advice, profile=profile
    )
    results: dict[str, Any] = {}
    checkpoint = outcome.checkpoint
    if outcome.stopped_early is not None:
        # The run ended because later checkpoints are no better.
        checkpoint = checkpoint.with_name("best_model" + checkpoint.suffix)
    ended = outcome.completed or outcome.stopped_early is not None
    if outcome.is_main and ended and resolved.evaluation.final:
        from hjepa.runtime.threads import threads_of

        with threads_of(outcome.processes):
            results = _finish(outcome.run_dir, checkpoint, resolved, console, again=not outcome.already_done)
    return RunResult(
        run_dir=outcome.run_dir,
        checkpoint=outcome.checkpoint,
        step=outcome.step,
        completed=outcome.completed,
        interrupted=outcome.interrupted,
        results=results,
        stopped_early=outcome.stopped_early,
    )


def dry_run(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    *,
    output_dir: str | Path | None = None,
    device: str | None = None,
    epochs: float | None = None,
    max_steps: int | None = None,
    seed: int | None = None,
    overrides: Overrides = (),
) -> DryRun:
    """Say what `train` would do and what it would take, from a few real steps; writes nothing.

    Args:
        config, output_dir, device, epochs, max_steps, seed, overrides: as for `train`.

    Raises:
        UserError: invalid configuration or data.

    Example:
        >>> import hjepa
        >>> plan = hjepa.dry_run("quickstart")  # doctest: +SKIP
        >>> plan.as_dict()["steps"]  # doctest: +SKIP
        420
    """
    resolved = _resolve(config, output_dir, device, epochs, max_steps, seed, None, overrides)
    from hjepa.benchmark.dry_run import dry_run as measure

    return measure(
        resolved,
        output_dir=output_dir,
        advice=batch_advice("quickstart" if config is None else config, resolved),
    )


def _resolve(
    config: Config | str | Path | Mapping[str, Any] | None,
    output_dir: str | Path | None,
    device: str | None,
    epochs: float | None,
    max_steps: int | None,
    seed: int | None,
    resume: str | Path | None,
    overrides: Overrides,
) -> Config:
    source = _source(config, output_dir, resume)
    given = {"device": device, "training.epochs": epochs, "training.max_steps": max_steps, "seed": seed}
    flags = {key: value for key, value in given.items() if value is not None}
    tree = source.model_dump(mode="json") if isinstance(source, Config) else source
    if isinstance(overrides, Mapping):
        return load_config(tree, {**overrides, **flags})
    from hjepa.config import parse_override

    return load_config(tree, {**dict(parse_override(text) for text in overrides), **flags})


def _source(
    config: Config | str | Path | Mapping[str, Any] | None, output_dir: str | Path | None, resume: str | Path | None
) -> Config | str | Path | Mapping[str, Any]:
    if config is not None:
        return config
    if resume is None:
        return "quickstart"
    from hjepa.runs.locate import find_checkpoint, read_start

    if str(resume) != "auto":
        stored: dict[str, Any] = read_start(find_checkpoint(resume), verify=False)["config"]
        return _without_stop(stored)
    settings = Path(output_dir) / "config.yaml" if output_dir is not None else None
    if settings is not None and settings.is_file():
        return _without_stop(load_config(settings).model_dump(mode="json"))
    return "quickstart"


def _without_stop(tree: dict[str, Any]) -> dict[str, Any]:
    # max_steps limits one invocation: unless it is given again, a resumed run trains to its end.
    tree["training"] = {**tree["training"], "max_steps": None}
    return tree


def _finish(run_dir: Path, checkpoint: Path, config: Config, console: bool, *, again: bool) -> dict[str, Any]:
    """Evaluate a finished run and write its report, or read the results if that is already done."""
    written = run_dir / "results.json"
    if written.is_file() and not again:
        stored: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
        return stored
    from torch import get_num_threads

    from hjepa.evaluation import evaluate as run_evaluation
    from hjepa.evaluation import print_table
    from hjepa.training.loggers import LogFile
    from hjepa.visualization import visualize as draw

    with LogFile(run_dir / "training.log", console=console):
        log.info(
            "evaluating on test, with raw pixels, PCA and the untrained encoder as controls (CPU threads: %d)",
            get_num_threads(),
        )
        try:
            results = run_evaluation(checkpoint, device=config.device, output=written, console=console)
        except EmptySplitError as error:
            # Training succeeded, but the data set has no images to evaluate on.
            log.warning("evaluation and report skipped: %s", error)
            return {}
        if console:
            print_table(results)
        paths = draw(
            checkpoint, output_dir=run_dir, generate_report=True, quick=True, device=config.device, console=console
        )
        log.info("report: %s", next(p for p in paths if p.suffix == ".html"))
    return results


def evaluate(
    checkpoint: str | Path,
    *,
    split: Literal["validation", "test"] = "test",
    dataset: str | None = None,
    data_path: str | Path | None = None,
    eval_type: str | Sequence[str] = ("linear_probe", "knn"),
    k_values: Sequence[int] | None = None,
    levels: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    controls: Sequence[str] = ("untrained", "pixels", "pca"),
    batch_size: int | None = None,
    device: str = "auto",
    output: str | Path | None = None,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Evaluate a checkpoint or a run, with raw pixels, PCA and its own untrained encoder as controls.

    Use ``split="validation"`` to choose between runs, and ``"test"`` to report the chosen one. See
    `hjepa.evaluation.evaluate`.
    """
    from hjepa.evaluation import evaluate as run_evaluation

    return run_evaluation(
        checkpoint,
        split=split,
        dataset=dataset,
        data_path=data_path,
        eval_type=eval_type,
        k_values=k_values,
        levels=levels,
        depths=depths,
        controls=controls,
        batch_size=batch_size,
        device=device,
        output=output,
        overrides=overrides,
    )


def visualize(
    checkpoint: str | Path,
    *,
    figures: Sequence[str] | None = None,
    images: str | Path | Sequence[str | Path] = (),
    output_dir: str | Path | None = None,
    generate_report: bool = False,
    file_format: Literal["png", "svg"] = "png",
    force: bool = False,
    device: str = "auto",
    overrides: Overrides = (),
) -> list[Path]:
    """Draw figures of a run, or of one's own pictures, and its report; see `hjepa.visualization.visualize`.

    Example:
        >>> import hjepa
        >>> hjepa.visualize("runs/quickstart", figures=["attention", "rollout"])  # doctest: +SKIP
    """
    from hjepa.visualization import visualize as draw

    return draw(
        checkpoint,
        figures=figures,
        images=images,
        output_dir=output_dir,
        generate_report=generate_report,
        file_format=file_format,
        force=force,
        device=device,
        overrides=overrides,
    )


def ablate(
    study: str | Path | Mapping[str, Any],
    *,
    output_dir: str | Path | None = None,
    seeds: Sequence[int] | None = None,
    cells: Sequence[str] | None = None,
    base: str | Path | None = None,
    overrides: Overrides = (),
    device: str | None = None,
    dry_run: bool = False,
    final: bool = False,
    console: bool = True,
) -> StudyOutcome:
    """Compare configurations with paired seeds at equal budget, on validation images; ``final`` also reads test, once.

    See `hjepa.research.run_study`.

    Example:
        >>> import hjepa
        >>> plan = hjepa.ablate("levels", dry_run=True, overrides=["data.subset=256"])
        >>> [cell["name"] for cell in plan.results["cells"]]
        ['one level', 'two levels', 'three levels', 'four levels']
    """
    from hjepa.config import parse_override
    from hjepa.research import run_study

    keys = overrides if isinstance(overrides, Mapping) else dict(parse_override(text) for text in overrides)
    return run_study(
        study,
        output_dir=output_dir,
        seeds=seeds,
        cells=cells,
        base=base,
        overrides=keys,
        device=device,
        dry_run=dry_run,
        final=final,
        console=console,
    )


def load_pretrained(source: str | Path, *, device: str = "cpu") -> PretrainedEncoder:
    """Load a trained encoder by name, or from a packed folder, run folder or checkpoint.

    See `hjepa.zoo.load_pretrained`.

    Raises:
        CheckpointError: not found, or damaged.
    """
    from hjepa.zoo import load_pretrained as load

    return load(source, device=device)


def embed(
    source: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    level: int | str = "all",
    pool: Literal["mean", "max"] = "mean",
    normalize: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    force: bool = False,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Write one vector for every image of a data set to Parquet or NumPy; see `hjepa.embeddings.embed`."""
    from hjepa.embeddings import embed as run_embed

    return run_embed(
        source,
        data,
        output,
        level=level,
        pool=pool,
        normalize=normalize,
        device=device,
        batch_size=batch_size,
        force=force,
        overrides=overrides,
    )


def similar(
    source: str | Path,
    pictures: Sequence[str | Path],
    data: str | Path,
    *,
    k: int = 10,
    level: int | str | None = None,
    output: Sequence[str | Path] = (),
    device: str = "auto",
    force: bool = False,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Find the images that are most similar to some pictures; see `hjepa.embeddings.similar`."""
    from hjepa.embeddings import similar as run_similar

    return run_similar(
        source, pictures, data, k=k, level=level, output=output, device=device, force=force, overrides=overrides
    )


def duplicates(
    source: str | Path,
    data: str | Path,
    *,
    threshold: float | None = None,
    outliers: int = 20,
    level: int | str | None = None,
    output: Sequence[str | Path] = (),
    device: str = "auto",
    force: bool = False,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Find near copies and outliers in a set of images; see `hjepa.embeddings.duplicates`."""
    from hjepa.embeddings import duplicates as run_duplicates

    return run_duplicates(
        source,
        data,
        threshold=threshold,
        outliers=outliers,
        level=level,
        output=output,
        device=device,
        force=force,
        overrides=overrides,
    )


def analyze(run: str | Path, *, output: str | Path | None = None, force: bool = False) -> dict[str, Any]:
    """Tell how a run is doing or how it went, and what to do next; see `hjepa.analysis.analyze`."""
    from hjepa.analysis import analyze as run_analysis

    return run_analysis(run, output=output, force=force)


def compare(
    runs: Sequence[str | Path],
    *,
    output: str | Path | Sequence[str | Path] | None = None,
    cka: bool = False,
    device: str = "auto",
    force: bool = False,
) -> dict[str, Any]:
    """Compare runs on one page, differing keys first; see `hjepa.analysis.compare`."""
    from hjepa.analysis import compare as run_comparison

    return run_comparison(runs, output=output, cka=cka, device=device, force=force)


def watch(run: str | Path, *, once: bool = False) -> None:
    """Show a running run in the terminal, from its files; see `hjepa.analysis.watch`."""
    from hjepa.analysis import watch as run_watch

    run_watch(run, once=once)
