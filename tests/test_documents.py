"""The documents are correct: their Python snippets run, their commands parse, their configurations load."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from hjepa.cli.arguments import normalise

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        for number, body in enumerate(re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.S)):
            found.append((f"{document.relative_to(ROOT)}#{number}", body))
    return found


def snippets() -> list[str]:
    return [str(d.relative_to(ROOT)) for d in DOCUMENTS if "```python" in d.read_text()]


# Training runs in the documents take minutes. Here they use a few images; everything else runs as printed.
SHORT = [
    "data.subset=128",
    "data.batch_size=64",
    "training.epochs=1",
    "evaluation.train_images=200",
    "evaluation.test_images=100",
]


@pytest.mark.parametrize("document", snippets())
def test_python_snippets_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    import hjepa
    from hjepa import api

    original = api.train
    monkeypatch.setattr(hjepa, "train", lambda *a, **k: original(*a, **{**k, "overrides": SHORT}), raising=False)
    code = "\n".join(body for where, body in blocks("python") if where.rsplit("#", 1)[0] == document)
    if "runs/quickstart" in code:
        trained = [*SHORT, "evaluation.final=false"]
        original("quickstart", output_dir="runs/quickstart", overrides=trained, console=False)
    exec(compile(code, document, "exec"), {"__name__": "snippet"})


def commands() -> list[tuple[str, str]]:
    lines = []
    for where, body in blocks("bash"):
        for line in body.replace("\\\n", " ").splitlines():
            line = line.split("  #")[0].strip()
            if line.startswith("hjepa "):
                lines.append((where, line))
    return lines


@pytest.mark.parametrize(("where", "line"), [pytest.param(w, c, id=f"{w} {c}") for w, c in commands()])
def test_commands_in_documents_use_existing_commands_options_and_keys(where: str, line: str) -> None:
    import typer

    from hjepa.cli.main import app
    from hjepa.config import all_keys

    command: Any = typer.main.get_command(app)
    words = normalise(shlex.split(line)[1:])
    while hasattr(command, "commands"):
        assert words, line
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in options, f"{where}: {word} in {line}"
        elif "=" in word:
            assert word.split("=")[0] in all_keys(), f"{where}: {word} in {line}"


def test_links_between_documents_have_targets() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def anchors(text: str) -> set[str]:
    """Anchors on a page: those that GitHub generates from headings, and explicit ones."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.M)]
    headings = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return headings | set(re.findall(r'<a id="([^"]+)">', text))


def test_links_to_headings_have_targets() -> None:
    for document in DOCUMENTS:
        for target, part in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", document.read_text()):
            page = document.parent / target if target else document
            assert part in anchors(page.read_text()), f"{document.relative_to(ROOT)}: {target}#{part}"


def documented_modules() -> list[str]:
    package = ROOT / "src"
    return sorted(
        str(f.relative_to(package)).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for f in (package / "hjepa").rglob("*.py")
        if ">>> " in f.read_text()
    )


@pytest.mark.parametrize("name", documented_modules())
def test_examples_in_docstrings_run(name: str) -> None:
    import doctest
    import importlib

    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed
