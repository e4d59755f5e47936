"""Draw the figures and the report of a checkpoint in one call."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.config import Config, dump_config, load_config, parse_override
from hjepa.data import Split, Splits
from hjepa.errors import UserError
from hjepa.health.evidence import Evidence
from hjepa.health.verdict import judge
from hjepa.methods import HJepa
from hjepa.metrics import position_share
from hjepa.runs.load import TrainedRun, load_run, untrained_encoder
from hjepa.runs.records import read_json, read_records
from hjepa.runtime.work_progress import WorkProgress
from hjepa.visualization.features import encode_cells, encode_gallery, encode_tokens
from hjepa.visualization.figures.curves import curves_figure
from hjepa.visualization.figures.embedding import embedding_figure
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.health import health_figure
from hjepa.visualization.figures.maps import maps_figure
from hjepa.visualization.figures.masks import masks_figure, no_masks
from hjepa.visualization.figures.neighbours import neighbours_figure
from hjepa.visualization.figures.style import DARK, LIGHT, to_png
from hjepa.visualization.report.build import Report
from hjepa.visualization.report.pictures import DrawnFigure
from hjepa.visualization.report.summary import level_name, run_summary, subtitle
from hjepa.visualization.split_images import SplitImages

if TYPE_CHECKING:
    from hjepa.masking import MaskSampler

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
    output_dir: str | Path | None = None,
    generate_report: bool = False,
    device: str = "auto",
    overrides: Sequence[str] | Mapping[str, Any] = (),
    console: bool = False,
) -> list[Path]:
    """Draw the curves, masks, feature maps, nearest neighbours and embedding of a run, and write its report.

    The images are test images of the run's data set, in a random order drawn from the run's seed.

    Args:
        checkpoint: a ``.pth`` file, or a run folder for its last checkpoint.
        output_dir: folder for the PNG files and ``report.html``. By default, or if it is the run folder, the PNG files
            are written to ``figures`` in the run folder, and the report to the run folder.
        generate_report: also write ``report.html``, one self-contained file below 8 MB.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<n>`` or ``mps``.
        overrides: ``["section.key=value", ...]``, or a mapping from dotted keys, for keys that locate and read the
            images, such as ``data.data_path``.
        console: draw progress bars if standard output is a terminal; otherwise progress is logged.

    Returns:
        paths of the files written: ``curves.png``, ``health.png``, ``masks.png``, ``maps.png``, ``neighbours.png``, ``embedding.png``
        and then the report. Figures that cannot be drawn are omitted; the log and the report give the reason.

    Raises:
        UserError: there is no checkpoint, there are no images, a key has no effect on figures, or a folder cannot be
            written.
    """
    pairs = _check_overrides(overrides)
    run = load_run(checkpoint, device=device)
    home = run.run_dir or run.checkpoint.parent
    root = home if output_dir is None else Path(output_dir)
    figures = root / "figures" if root.resolve() == home.resolve() else root
    _make_folder(figures)
    config = load_config(run.config.model_dump(mode="json"), pairs) if pairs else run.config
    gathered = _gather(run, home, config, console)
    written: list[Path] = []
    drawn: list[DrawnFigure | Omitted] = []
    with WorkProgress("figures: drawn", len(gathered.sections), "figures", console=console) as progress:
        for section in gathered.sections:
            if isinstance(section, Omitted):
                log.warning("omitted figure %s: %s", section.name, section.reason)
                drawn.append(section)
            else:
                light = to_png(section.draw(LIGHT))
                written.append(_write(figures / f"{section.name}.png", light))
                if generate_report:
                    drawn.append(DrawnFigure(section, light, to_png(section.draw(DARK))))
            progress.advance(note=section.name)
    if generate_report:
        written.append(_write(root / "report.html", gathered.report(drawn).html().encode("utf-8", "backslashreplace")))
    return written


@dataclass(frozen=True)
class _Gathered:
    """Everything needed for figures and report; without a sampler if the method predicts no masked regions."""

    run: TrainedRun
    sampler: MaskSampler | None
    evidence: Evidence
    environment: dict[str, Any] | None
    description: str
    sections: list[Figure | Omitted]

    def report(self, drawn: list[DrawnFigure | Omitted]) -> Report:
        environment = self.environment or {}
        return Report(
            title=self.run.config.logging.experiment_name,
            subtitle=subtitle(self.run, self.description, self.evidence),
            summary=run_summary(self.run, self.sampler, self.description, self.environment, self.evidence),
            verdict=judge(self.evidence),
            evidence=self.evidence,
            geometry=self.run.encoder.geometry,
            targets=None if self.sampler is None else self.sampler.counts.targets,
            sections=drawn,
            settings=dump_config(self.run.config),
            environment=[(name, str(value)) for name, value in environment.items() if value is not None],
            checkpoint=str(self.run.checkpoint),
        )


def _gather(run: TrainedRun, home: Path, config: Config, console: bool) -> _Gathered:
    geometry = run.encoder.geometry
    records = read_records(home / "metrics.jsonl")
    if records.unreadable:
        log.warning("%s: skipped %d line(s) that cannot be read", home / "metrics.jsonl", records.unreadable)
    results = _read_results(home)
    environment = read_json(home / "environment.json", "delete the file; nothing else depends on it")
    # Everything else needs only the encoder, which every method has.
    sampler = run.method.masks if isinstance(run.method, HJepa) else None
    splits = Splits(config.data.model_copy(update={"channels": run.channels}), run.config.seed)
    images = SplitImages(run, splits)
    untrained = untrained_encoder(run)
    log.info("figures: encoding held-out images of %s", images.dataset.description)
    tokens = encode_tokens(images, run.encoder, untrained)
    gallery = encode_gallery(images, run.encoder, untrained, console=console)
    # This share enters advice for the next run, so it is not measured on test images.
    choosing = SplitImages(run, splits, _choosing(splits))
    position = [position_share(level) for level in encode_cells(choosing, run.encoder)]
    names = [level_name(geometry, level) for level in range(run.encoder.num_levels)]
    log.info("figures: computing neighbours and embedding of %d held-out images", len(gallery))
    sections = [
        curves_figure(records, names, run.step, f"`hjepa train --output-dir {home} --resume auto`"),
        health_figure(records, run.config.health, names),
        no_masks(run.config.method) if sampler is None else masks_figure(images, sampler, geometry),
        maps_figure(images, tokens, geometry, position, averaged=sampler is not None),
        neighbours_figure(images, gallery),
        embedding_figure(images, gallery, run.config.seed),
    ]
    evidence = Evidence(
        config=run.config,
        width=geometry.embed_dim,
        step=run.step,
        records=records,
        results=results,
        run=str(home),
        position=position,
    )
    return _Gathered(run, sampler, evidence, environment, images.dataset.description, sections)


def _choosing(splits: Splits) -> Split:
    """The split that advice may be based on."""
    return "train" if splits.validation is None else "validation"


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
