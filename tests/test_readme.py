"""The README and the pages behind it: their commands run and print what they show, their tables are the files'."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT

from bdscan.cli import FOUND, OUR_FAULT
from bdscan.facts.problem import COULD_NOT_TELL, USAGE
from bdscan.method.registry import names, summary

FILES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md")]
PAGES = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for file in (*FILES, *sorted((ROOT / "docs").glob("*.md")))
}
README = PAGES["README.md"]
CI = PAGES["docs/ci.md"]
TUTORIAL = re.search(r"^### A gate.*?(?=^##? )", CI, re.DOTALL | re.MULTILINE)[0]  # type: ignore[index]
EXAMPLE = re.search(r"^## A probe in.*?(?=^## )", PAGES["CONTRIBUTING.md"], re.DOTALL | re.MULTILINE)[0]  # type: ignore[index]
(EXAMPLE_FILE,) = re.findall(r"as\s`([^`]+)`,\sis\scomplete", EXAMPLE)
# Set-up, training and measuring: tried by hand and by CI, not from within a test.
NOT_HERE = ("make ", "git ", "pip ", "cd ", "docker ", "cosign ")
# Where each table of methods stands.
TABLES = {"probes": "docs/usage.md", "purify": "docs/purify.md", "train": "docs/train.md"}


@dataclass(frozen=True)
class Shown:
    """One `$ command` of a page, and the lines under it."""

    command: str
    output: str

    @property
    def status(self) -> int | None:
        """The exit status that an `echo $?` right behind it shows."""
        status = re.search(r"^\$ echo \$\?\n(\d)$", self.output, re.MULTILINE)
        return int(status[1]) if status else None


def shown(text: str) -> list[Shown]:
    commands = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in re.split(r"^\$ (?!echo \$\?)", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            commands.append(Shown(command.strip(), output))
    return commands


def comparable(text: str) -> list[str]:
    """The words of an output; figures, paths and rulers may differ from machine to machine."""
    figures = re.sub(r"[-+]?\d[\d.,e-]*|[0-9a-f]{8,}|[─━═│┃|_-]{3,}", "#", text)
    return figures.split()


# Those of the tutorial and of the example build on one another: tests of their own run them.
COMMANDS = [
    each
    for text in PAGES.values()
    for each in shown(text.replace(TUTORIAL, "").replace(EXAMPLE, ""))
    if not each.command.startswith(NOT_HERE)
]


def marks(each: Shown) -> list[pytest.MarkDecorator]:
    """A scan with all probes takes a minute or two, a cure longer."""
    long = any(verb in each.command for verb in ("inspect", "purify")) and "--probe" not in each.command
    return [pytest.mark.slow] if long or " train " in each.command else []


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Where a reader types: beside the samples, but what is written goes elsewhere."""
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    (policy,) = re.findall(r"```toml\n(.*?)```", CI, re.DOTALL)
    (tmp_path / "bdscan.toml").write_text(policy, encoding="utf-8")
    # The recipes' own names for a model and for the images that one trusts.
    (tmp_path / "model.pt").symlink_to(ROOT / "samples" / "models" / "clean.pt")
    (tmp_path / "clean").symlink_to(ROOT / "samples" / "images")
    return tmp_path


def run(command: str, where: Path) -> subprocess.CompletedProcess[str]:
    program, *words = shlex.split(command)
    assert program == "bdscan", f"a command that no test knows how to run: {command}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "bdscan", *words], cwd=where, env=environment, capture_output=True, text=True
    )


def test_there_is_something_to_run() -> None:
    assert any("inspect" in each.command for each in COMMANDS)
    assert any("methods" in each.command for each in COMMANDS)


@pytest.mark.parametrize("each", [pytest.param(each, marks=marks(each), id=each.command) for each in COMMANDS])
def test_a_command_does_what_is_shown(each: Shown, desk: Path) -> None:
    done = run(each.command, desk)
    assert done.returncode not in (USAGE, OUR_FAULT), done.stderr
    if each.status is not None:
        assert done.returncode == each.status, done.stdout + done.stderr
    printed_as_shown(each, done.stdout + done.stderr)


def printed_as_shown(each: Shown, printed: str) -> None:
    """Every piece of what is shown, in this order; `…` stands for what is left out."""
    output = re.sub(r"^\$ echo.*\n\d\n?", "", each.output, flags=re.MULTILINE)
    left = comparable(printed)
    for piece in output.split("…"):
        words = comparable(piece)
        starts = [i for i in range(len(left) - len(words) + 1) if left[i : i + len(words)] == words]
        assert starts, f"not printed:\n{piece}\nbut:\n{printed}"
        left = left[starts[0] + len(words) :]


@pytest.mark.parametrize("room", TABLES)
def test_the_tables_are_the_files_first_lines(room: str) -> None:
    table = "\n".join(f"| `{name}` | {summary(room, name)} |" for name in names(room))
    assert table in PAGES[TABLES[room]], f"the table should read:\n{table}"


@pytest.mark.parametrize(("page", "row"), [("README.md", r"^\| \*\*(\d)\*\* \|"), ("docs/verdict.md", r"^\| (\d) \|")])
def test_every_exit_status_is_told(page: str, row: str) -> None:
    statuses = {int(code) for code in re.findall(row, PAGES[page], re.MULTILINE)}
    assert statuses == {0, FOUND, USAGE, COULD_NOT_TELL, OUR_FAULT}


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_is_there(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^\$ )make ([a-z-]+)", PAGES[page], re.MULTILINE))
    assert named <= targets


def anchors(text: str) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_everything_that_is_linked_exists(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)", PAGES[page]):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str) -> None:
    for name in re.findall(r"`((?:bdscan|bench|ci|docs|samples|tests)/[^`*\s]*)`", PAGES[page]):
        assert (ROOT / name).exists() or name == EXAMPLE_FILE, name


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len(README.split()) <= 1000, "the rest belongs into docs/"


@pytest.mark.parametrize("page", PAGES)
def test_lines_fit_a_terminal(page: str) -> None:
    """Tables and what is shown of a terminal cannot be wrapped."""
    prose = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    assert not [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")]
