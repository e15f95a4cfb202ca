"""The README: its commands run and print what it shows, its tables say what the files say."""

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

README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIAL = re.search(r"^### A gate.*?(?=^##? )", README, re.DOTALL | re.MULTILINE)[0]  # type: ignore[index]
# Set-up, training and measuring: tried by hand and by CI, not from within a test.
NOT_HERE = ("make ", "git ", "pip ", "cd ")


@dataclass(frozen=True)
class Shown:
    """One `$ command` of the README, and the lines under it."""

    command: str
    output: str

    @property
    def status(self) -> int | None:
        """The exit status that an `echo $?` right behind it shows."""
        found = re.search(r"^\$ echo \$\?\n(\d)$", self.output, re.MULTILINE)
        return int(found[1]) if found else None


def shown(text: str) -> list[Shown]:
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in re.split(r"^\$ (?!echo \$\?)", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Shown(command.strip(), output))
    return found


def told(text: str) -> list[str]:
    """The words of an output; figures, paths and rulers may differ from machine to machine."""
    figures = re.sub(r"[-+]?\d[\d.,e-]*|[0-9a-f]{8,}|[─━═│┃|_-]{3,}", "#", text)
    return figures.split()


# Those of the tutorial build on one another: a test of their own runs them.
COMMANDS = [each for each in shown(README.replace(TUTORIAL, "")) if not each.command.startswith(NOT_HERE)]


def marks(each: Shown) -> list[pytest.MarkDecorator]:
    """A scan with all probes takes a minute or two, a cure longer."""
    long = any(verb in each.command for verb in ("inspect", "purify")) and "--probe" not in each.command
    return [pytest.mark.slow] if long or " train " in each.command else []


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Where a reader types: beside the samples, but what is written goes elsewhere."""
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    (policy,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "bdscan.toml").write_text(policy, encoding="utf-8")
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
    left = told(printed)
    for piece in output.split("…"):
        words = told(piece)
        starts = [i for i in range(len(left) - len(words) + 1) if left[i : i + len(words)] == words]
        assert starts, f"not printed:\n{piece}\nbut:\n{printed}"
        left = left[starts[0] + len(words) :]


@pytest.mark.parametrize("room", ["probes", "purify", "train"])
def test_the_tables_are_the_files_first_lines(room: str) -> None:
    table = "\n".join(f"| `{name}` | {summary(room, name)} |" for name in names(room))
    assert table in README, f"the table should read:\n{table}"


def test_every_exit_status_is_told() -> None:
    told = {int(code) for code in re.findall(r"^\| \*\*(\d)\*\* \|", README, re.MULTILINE)}
    assert told == {0, FOUND, USAGE, COULD_NOT_TELL, OUR_FAULT}


def test_every_make_target_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)`?", README))
    assert named <= targets


def test_every_file_that_is_linked_exists() -> None:
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", README):
        assert (ROOT / link).exists(), link
