"""`hjepa doctor`."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

import typer

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pydantic", "safetensors", "scikit-learn", "pyarrow")
_EXTRAS = {"wandb": "wandb", "timm": "timm", "huggingface-hub": "hub", "umap-learn": "umap", "onnxruntime": "onnx"}


def doctor() -> None:
    """Print versions, devices, threads and disk space; include the output in a bug report."""
    import torch

    from hjepa.runtime.device import resolve_device
    from hjepa.runtime.threads import choose_threads
    from hjepa.training.precision import mixed_precision_pays
    from hjepa.version import __version__

    rows = [
        ("hjepa", __version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("system", platform.platform()),
    ]
    rows += [(name, _version(name) or "missing") for name in _PACKAGES]
    rows += [
        (name, _version(name) or f"not installed (pip install 'hjepa[{extra}]')") for name, extra in _EXTRAS.items()
    ]
    rows.append(("cpu threads", f"{choose_threads()} (PyTorch's own choice: {torch.get_num_threads()})"))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            rows.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    else:
        rows.append(("cuda", "no GPU that PyTorch can use"))
    rows.append(("mps", "yes" if torch.backends.mps.is_available() else "no"))
    device = resolve_device("auto")
    pays, why = mixed_precision_pays(device, "bf16")
    rows.append(("use_amp=auto", f"{'bf16' if pays else 'float32'} on {device}: {why}"))
    usage = shutil.disk_usage(Path.cwd())
    rows.append(("disk here", f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.0f}"))
    problems = _problems()
    for name, value in rows:
        typer.echo(f"{name:<16}{value}")
    for problem in problems:
        typer.echo(f"problem: {problem}")
    if problems:
        raise typer.Exit(1)
    typer.echo("no problems found")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _problems() -> list[str]:
    found = []
    try:
        import torchvision  # noqa: F401 (checks that the import works)
    except Exception as error:
        found.append(
            f"torchvision cannot be imported ({type(error).__name__}: {str(error).splitlines()[0]}); install torch and "
            "torchvision together: pip install --upgrade torch torchvision"
        )
    if shutil.disk_usage(Path.cwd()).free < 2**30:
        found.append("less than 1 GiB of disk space is free here; runs need space for checkpoints")
    return found
