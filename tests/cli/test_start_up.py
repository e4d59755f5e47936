"""Heavy packages are imported only when needed. Start-up times are measured by `benchmarks/start_up.py`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.cli.test_program import ENVIRONMENT

HEAVY = {"torch", "numpy", "torchvision", "sklearn", "scipy", "matplotlib", "pyarrow", "PIL", "tensorboard"}

# Prints the top-level packages in memory after some code, even if that code prints or exits.
_REPORT = """
import sys
try:
    {code}
except SystemExit:
    pass
print()
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def packages_after(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after one line of code."""
    result = subprocess.run(
        [sys.executable, "-c", _REPORT.format(code=code)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=300,
        check=True,
    )
    found = set(result.stdout.splitlines()[-1].split())
    assert "hjepa" in found
    return found


def after_command(*arguments: str) -> set[str]:
    return packages_after(f"from hjepa.cli.main import main; main({list(arguments)!r})")


def test_importing_the_package_imports_no_dependency() -> None:
    assert not packages_after("import hjepa") & (HEAVY | {"pydantic", "yaml", "typer", "rich"})


def test_a_public_name_imports_its_dependencies() -> None:
    # Shows that `packages_after` would detect an import.
    assert {"torch", "numpy", "pydantic"} <= packages_after("import hjepa; hjepa.create_hjepa")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("train", "--help"),
        ("config", "show", "quickstart"),
        ("data", "list"),
        # An error in the configuration is reported before heavy packages are imported.
        ("train", "training.lrr=1"),
        ("bench", "--config", "quickstrt"),
    ],
    ids=" ".join,
)
def test_commands_without_tensors_do_not_import_pytorch(arguments: tuple[str, ...]) -> None:
    found = after_command(*arguments)
    assert not found & HEAVY
    assert "typer" in found


def test_help_does_not_import_the_configuration() -> None:
    assert not after_command("--help") & {"pydantic", "yaml"}


def test_training_imports_neither_plots_nor_decoders_nor_classifiers() -> None:
    found = packages_after("import hjepa.training")
    assert "torch" in found
    assert not found & {"matplotlib", "sklearn", "scipy", "torchvision", "pyarrow", "tensorboard", "wandb"}


def test_a_single_process_does_not_import_distributed_modules() -> None:
    program = "import sys, hjepa.training.run; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "torch.distributed" in found
    spread = ("torch.distributed.checkpoint", "torch.distributed.fsdp", "torch.distributed.tensor")
    assert not [name for name in found if name.startswith(spread)]
