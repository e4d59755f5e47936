"""The model card, generated from the files of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hjepa.config.grid import by

if TYPE_CHECKING:
    from hjepa.config import Config

SELECTION = (
    "The presets of hjepa were chosen by test accuracy, among 60 short and 10 full-length experiments on CIFAR-10 and "
    "17 short ones on the built-in data set `shapes`. Seeds of one recipe differ by 0.4 points (standard deviation). "
    "If all recipes were equally good and noise alone decided, the best of 70 results on the same 10,000 test images "
    "would be 1.1 points above its true value on average (bound: 1.4), and the best of 60 short runs 1.9 points "
    "(bound: 2.4). Test accuracies of models that use a preset may be too high by about as much on these two data "
    "sets. `hjepa ablate` now compares configurations on validation images. `python -m benchmarks.selection_bias` "
    "computes these numbers."
)
"""How much choosing the presets by test accuracy may inflate their results; the numbers are those of
``docs/results/selection_bias.json``."""

_DATA = {"parquet": "images in Parquet files", "folder": "a folder of images"}


def model_card(about: dict[str, Any], config: Config, results: dict[str, Any] | None, size: int) -> str:
    """The model card as Markdown.

    Args:
        about: contents of ``model.json``.
        config: configuration of the run.
        results: contents of ``results.json``; None if the run was not evaluated.
        size: size of the weights in bytes.
    """
    levels = "; ".join(_level(level["depth"], level["stride"]) for level in about["levels"])
    data = results["description"] if results else _DATA.get(config.data.dataset, config.data.dataset)
    height, width = about["image_size"]
    images = config.data.batch_size * config.training.accumulation_steps * (about.get("processes") or 1)
    lines = [
        f"# {about['name']}",
        "",
        f"A vision transformer pretrained without labels by hierarchical joint-embedding prediction, on {data}.",
        "",
        "```python",
        "import hjepa",
        "",
        f'encoder = hjepa.load_pretrained("{about["name"]}")',
        f"features = encoder.embed(images)  # uint8 [N, {about['channels']}, H, W] -> [N, {len(about['levels']) * about['embed_dim']}]",
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| encoder | width {about['embed_dim']}, {about['depth']} blocks, patch {about['patch_size']}, {about['parameters'] / 1e6:.2f} M parameters |",
        f"| images | {height}x{width}, {about['channels']} channels |",
        f"| levels | {levels} |",
        f"| training | {about['epoch']} epochs, {about['step']} steps of {images} images, seed {about['seed']}, on {about.get('device')}{_time(about.get('seconds'))} |",
        f"| weights | half precision, {size / 1e6:.1f} MB; features differ by {about['half_precision_error']:.2%} from full precision |",
        f"| code | hjepa {about.get('hjepa')}, commit {about.get('commit')}, torch {about.get('torch')} |",
        "",
    ]
    if about.get("command"):
        lines += ["Reproduce it with", "", "```bash", str(about["command"]), "```", ""]
    lines += _table(results) if results else ["It was not evaluated.", ""]
    lines += ["## How the recipe was chosen", "", SELECTION, ""]
    lines += [
        "## Use and limits",
        "",
        f"Features of small natural images at {height}x{width}; larger images are resized to that. The model was trained on one data "
        "set of a few classes: evaluate its features before using them for other kinds of images. It inherits the biases of "
        "that data set. Configuration: `config.yaml`; all results: `results.json`.",
    ]
    return "\n".join(lines) + "\n"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f", {seconds / 60:.0f} minutes"


def _level(depth: int, stride: int | list[int]) -> str:
    if stride == 0:
        return f"after block {depth}, whole image"
    cell = [stride, stride] if isinstance(stride, int) else stride
    return f"after block {depth}" + ("" if stride == 1 else f", {by(cell)} averaged")


def _table(results: dict[str, Any]) -> list[str]:
    probe, knn = results.get("linear_probe", {}), results.get("knn", {})
    if "trained" not in probe:
        return []
    lines = [
        f"## Results on {results['description']}",
        "",
        f"Accuracy on {results.get('split', 'test')} images, in per cent.",
        "",
        f"| features | linear probe | k-NN-{knn['k']} |",
        "|---|---:|---:|",
    ]

    def row(label: str, a: float, b: float) -> str:
        return f"| {label} | {100 * a:.1f} | {100 * b:.1f} |"

    lines.append(row("trained, all levels", probe["trained"], knn["trained"]))
    for entry, other in zip(probe["levels"], knn["levels"], strict=True):
        lines.append(row(f"trained, level {entry['level']}", entry["trained"], other["trained"]))
    for key, label in (("untrained", "untrained, all levels"), ("pixels", "raw pixels"), ("pca", "PCA of pixels")):
        if key in probe:
            lines.append(row(label, probe[key], knn[key]))
    validation = results.get("validation", {})
    if "trained" in validation.get("linear_probe", {}) and "trained" in validation.get("knn", {}):
        lines += [
            "",
            f"On {validation['images']} validation images, all levels: {100 * validation['linear_probe']['trained']:.1f} and "
            f"{100 * validation['knn']['trained']:.1f}.",
        ]
    return [*lines, "", results["protocol"], ""]
