"""One call from a checkpoint to figures and a report."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa.config import Config, dump_config, load_config, parse_override
from hjepa.data import Split, Splits
from hjepa.errors import UserError
from hjepa.health.evidence import Evidence
from hjepa.health.verdict import judge
from hjepa.masking import MaskSampler
from hjepa.metrics import position_share
from hjepa.runs.records import read_json, read_records
from hjepa.runtime.work_progress import WorkProgress
from hjepa.training import TrainedRun, load_run, untrained_encoder
from hjepa.visualization.features import encode_cells, encode_gallery, encode_tokens
from hjepa.visualization.figures.curves import curves_figure
from hjepa.visualization.figures.embedding import embedding_figure
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.maps import maps_figure
from hjepa.visualization.figures.masks import masks_figure
from hjepa.visualization.figures.neighbours import neighbours_figure
from hjepa.visualization.figures.style import DARK, LIGHT, to_png
from hjepa.visualization.report.build import Report
from hjepa.visualization.report.pictures import DrawnFigure
from hjepa.visualization.report.summary import level_name, run_summary, subtitle
from hjepa.visualization.split_images import SplitImages

log = logging.getLogger("hjepa")

# Keys that find and read the images. All others belong to the trained model, or would show other images than its own.
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

    Pictures are held-out images of the run's own data set, in an order that is a function of the run's seed.

    Args:
        checkpoint: a ``.pth`` file or a run folder (its last checkpoint).
        output_dir: where the PNG files and ``report.html`` go. When not given, or when it is the run folder itself:
            ``figures`` in the run folder, and the report beside it.
        generate_report: write ``report.html`` too, one self-contained file below 8 MB.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<n>`` or ``mps``.
        overrides: ``["section.key=value", ...]``, or a mapping from dotted keys, for keys that find and read the
            images, such as ``data.data_path``.
        console: draw progress bars where standard output is a terminal; progress is logged otherwise.

    Returns:
        the files written: ``curves.png``, ``masks.png``, ``maps.png``, ``neighbours.png`` and ``embedding.png``, as far
        as there is something to draw (what is left out is logged, and the report says why), and last the report.

    Raises:
        UserError: nothing at ``checkpoint``, no images, a key that has no effect here, or a folder that cannot be
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
                log.warning("%s left out: %s", section.name, section.reason)
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
    """Everything that figures and report are made of."""

    run: TrainedRun
    sampler: MaskSampler
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
            geometry=self.run.model.geometry,
            targets=self.sampler.counts.targets,
            sections=drawn,
            settings=dump_config(self.run.config),
            environment=[(name, str(value)) for name, value in environment.items() if value is not None],
            checkpoint=str(self.run.checkpoint),
        )


def _gather(run: TrainedRun, home: Path, config: Config, console: bool) -> _Gathered:
    geometry = run.model.geometry
    records = read_records(home / "metrics.jsonl")
    if records.unreadable:
        log.warning("%s: %d line(s) cannot be read and are left out", home / "metrics.jsonl", records.unreadable)
    results = _read_results(home)
    environment = read_json(home / "environment.json", "remove the file, nothing else depends on it")
    sampler = MaskSampler(
        run.config.masking, geometry.grid, [level.stride for level in geometry.levels], seed=run.config.seed
    )
    splits = Splits(config.data.model_copy(update={"channels": run.channels}), run.config.seed)
    images = SplitImages(run, splits)
    untrained = untrained_encoder(run)
    log.info("figures: encoding held-out images of %s", images.dataset.description)
    tokens = encode_tokens(images, run.encoder, untrained)
    gallery = encode_gallery(images, run.encoder, untrained, console=console)
    # Evidence for the next run, so not from test images.
    choosing = SplitImages(run, splits, _choosing(splits))
    position = [position_share(level) for level in encode_cells(choosing, run.encoder)]
    names = [level_name(geometry, level) for level in range(run.encoder.num_levels)]
    log.info("figures: neighbours and embedding of %d held-out images", len(gallery))
    sections = [
        curves_figure(records, names, run.step, f"`hjepa train --output-dir {home} --resume auto`"),
        masks_figure(images, sampler, geometry),
        maps_figure(images, tokens, geometry, position),
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
    """The split that advice may be drawn from."""
    return "train" if splits.validation is None else "validation"


def _read_results(home: Path) -> dict[str, Any] | None:
    """The final table of a run with the validation figures that were read beside it or by themselves."""
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
            hint = f"did you mean {close[0]}?" if close else f"changeable are {', '.join(_CHANGEABLE)}"
            raise UserError(f"{key}: not a key that figures depend on, the rest belongs to the trained run; {hint}")
    return pairs


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output_dir: {folder} cannot be made ({error.strerror}); choose another --output-dir"
        ) from None


def _write(path: Path, content: bytes) -> Path:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"output_dir: {path} cannot be written ({error.strerror}); choose another --output-dir"
        ) from None
    return path
