"""Draw the figures and the report of a checkpoint in one call."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hjepa.config import dump_config, load_config, parse_override
from hjepa.errors import UserError
from hjepa.health.evidence import Evidence
from hjepa.health.verdict import judge
from hjepa.runs.records import read_json
from hjepa.runtime.work_progress import WorkProgress
from hjepa.visualization.catalogue import Kind, choose
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.style import DARK, LIGHT, to_png, to_svg
from hjepa.visualization.material import Material
from hjepa.visualization.report.build import Report
from hjepa.visualization.report.hover import hover_map
from hjepa.visualization.report.pictures import DrawnFigure
from hjepa.visualization.report.summary import run_summary, subtitle
from hjepa.zoo.files import is_packed
from hjepa.zoo.load import load_encoder

log = logging.getLogger("hjepa")

# Keys that locate and read the images. All others belong to the trained model or would select other images.
_CHANGEABLE = (
    "data.data_path",
    "data.download",
    "data.num_workers",
    "data.storage",
    "data.cache_dir",
    "data.cache_gib",
    "data.bad_images",
    "data.labels_file",
    "data.classes_file",
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
    quick: bool = False,
    device: str = "auto",
    overrides: Sequence[str] | Mapping[str, Any] = (),
    console: bool = False,
) -> list[Path]:
    """Draw figures of a run, or of any pictures as a trained encoder sees them, and write the report of the run.

    The pictures shown are the given ones, or test images of the run's data set in a random order drawn from its seed.

    Args:
        checkpoint: a ``.pth`` file, a run folder for its last checkpoint, a packed folder, or the name of a shipped model.
        figures: names of figures, see `hjepa.visualization.catalogue`; by default all, or with ``images`` all that show
            pictures.
        images: the user's own pictures: files, or folders with pictures.
        output_dir: folder for the figures and ``report.html``. By default, or if it is the run folder, figures are
            written to ``figures`` in the run folder, and the report to the run folder; for a packed model, to the current
            folder.
        generate_report: also write ``report.html``, one self-contained file below 8 MB.
        file_format: of the figures.
        force: overwrite files. Without it, existing files are an error, except for the figures and the report of a whole
            run (no ``figures`` and no ``images``), which are written anew.
        quick: leave out figures that take more than a few seconds, if ``figures`` is not given.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<n>`` or ``mps``.
        overrides: ``["section.key=value", ...]``, or a mapping from dotted keys, for keys that locate and read the
            images, such as ``data.data_path``.
        console: draw progress bars if standard output is a terminal; otherwise progress is logged.

    Returns:
        paths of the files written, the report last. Figures that cannot be drawn are omitted; the log and the report
        give the reason.

    Raises:
        UserError: there is no checkpoint, there are no images, an unknown figure, a key has no effect on figures, none of
            the named figures can be drawn, or a file exists or cannot be written.

    Example:
        >>> import hjepa
        >>> hjepa.visualize("hjepa-tiny-cifar10", figures=["attention"], images="photos")  # doctest: +SKIP
    """
    paths = [images] if isinstance(images, str | Path) else list(images)
    kinds = choose(None if figures is None else list(figures), own_pictures=bool(paths), quick=quick)
    if file_format not in ("png", "svg"):
        raise UserError(f"--format: {file_format} is not supported; use png or svg")
    pairs = _check_overrides(overrides)
    run = load_encoder(checkpoint, device=device)
    packed = is_packed(run.checkpoint)
    home = run.checkpoint if packed else run.run_dir or run.checkpoint.parent
    place = Path() if packed else home
    root = place if output_dir is None else Path(output_dir)
    folder = root / "figures" if root.resolve() == place.resolve() else root
    targets = {kind.name: folder / f"{kind.name}.{file_format}" for kind in kinds}
    page = root / "report.html"
    if (figures is not None or paths or packed) and not force:
        _refuse_existing([*targets.values(), *([page] if generate_report else [])])
    _make_folder(folder)
    config = load_config(run.config.model_dump(mode="json"), pairs) if pairs else run.config
    material = Material(run, home, config, paths=paths, console=console)
    results = _read_results(home)
    environment = read_json(home / "environment.json", "delete the file; nothing else depends on it")
    sections = _build(kinds, material, named=figures is not None)
    written: list[Path] = []
    drawn: list[DrawnFigure | Omitted] = []
    with WorkProgress("figures: drawn", len(sections), "figures", console=console) as progress:
        for section in sections:
            if isinstance(section, Omitted):
                drawn.append(section)
            else:
                light = to_png(section.draw(LIGHT)) if generate_report or file_format == "png" else b""
                content = to_svg(section.draw(LIGHT)) if file_format == "svg" else light
                written.append(_write(targets[section.name], content))
                if figures is not None:
                    # Without the report, the caption with its numbers would be nowhere.
                    log.info("%s: %s Look for %s", section.name, section.caption, section.look_for)
                if generate_report:
                    drawn.append(DrawnFigure(section, light, to_png(section.draw(DARK))))
            progress.advance(note=section.name)
    if generate_report:
        everything = choose(None) if quick and figures is None else kinds
        left_out = tuple(kind.title for kind in everything if kind not in kinds)
        report = _report(material, results, environment, drawn, left_out)
        written.append(_write(page, report.html().encode("utf-8", "backslashreplace")))
    return written


def _build(kinds: Sequence[Kind], material: Material, *, named: bool) -> list[Figure | Omitted]:
    sections: list[Figure | Omitted] = []
    for kind in kinds:
        section = kind.build(material)
        if isinstance(section, Omitted):
            log.warning("omitted figure %s: %s", section.name, section.reason)
        sections.append(section)
    missing = [section for section in sections if isinstance(section, Omitted)]
    if named and len(missing) == len(sections):
        raise UserError(f"--figures: {missing[0].name} cannot be drawn: {missing[0].reason}")
    return sections


def _report(
    material: Material,
    results: dict[str, Any] | None,
    environment: dict[str, Any] | None,
    drawn: list[DrawnFigure | Omitted],
    left_out: tuple[str, ...],
) -> Report:
    run, description = material.run, material.images.dataset.description
    evidence = Evidence(
        config=run.config,
        width=material.geometry.embed_dim,
        step=run.step,
        records=material.records,
        results=results,
        run=str(material.home),
        position=material.position,
    )
    sampler = material.sampler
    mapped = any(section.name == "embedding" and isinstance(section, DrawnFigure) for section in drawn)
    return Report(
        title=run.config.logging.experiment_name,
        subtitle=subtitle(run, description, evidence),
        summary=run_summary(run, sampler, description, environment, evidence),
        verdict=judge(evidence),
        evidence=evidence,
        geometry=material.geometry,
        targets=None if sampler is None else sampler.counts.targets,
        sections=drawn,
        settings=dump_config(run.config),
        environment=[(name, str(value)) for name, value in (environment or {}).items() if value is not None],
        checkpoint=str(run.checkpoint),
        hover=hover_map(material.images, material.gallery, material.layouts) if mapped else None,
        left_out=left_out,
    )


def _read_results(home: Path) -> dict[str, Any] | None:
    """The results of a run, completed by its separate validation results if they are of the same step."""
    again = f"evaluate again with `hjepa evaluate --checkpoint {home}`"
    results = read_json(home / "results.json", again)
    alone = read_json(home / "results_validation.json", f"{again} --split validation")
    if results is None or alone is None or "validation" in results or results.get("step") != alone.get("step"):
        return alone if results is None else results
    return results | {"validation": {key: alone[key] for key in ("linear_probe", "knn", "images") if key in alone}}


def _check_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    pairs = dict(overrides) if isinstance(overrides, Mapping) else dict(parse_override(text) for text in overrides)
    for key in pairs:
        if key not in _CHANGEABLE:
            close = difflib.get_close_matches(key, _CHANGEABLE, n=1, cutoff=0.8)
            hint = f"did you mean {close[0]}?" if close else f"use {', '.join(_CHANGEABLE)}"
            raise UserError(f"{key}: cannot be changed for figures, because it belongs to the trained run; {hint}")
    return pairs


def _refuse_existing(paths: Sequence[Path]) -> None:
    existing = [path for path in paths if path.exists()]
    if existing:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise UserError(f"--output: {existing[0]}{more} exists; choose another folder, or overwrite with --force")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output_dir: {folder} cannot be created ({error.strerror}); choose another --output-dir"
        ) from None


def _write(path: Path, content: bytes) -> Path:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"output_dir: {path} cannot be written ({error.strerror}); choose another --output-dir"
        ) from None
    return path
