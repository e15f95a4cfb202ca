"""The scanners of the field on the files of `bench.hostile_files`: `python -m bench.scanners WORK [--only NAME]...`.

WORK holds an environment for each scanner, made on the first run, and the files. What is found goes into
`bench/results/scanners.json`, beside what other scanners found before, and the table in `bench/README.md` is drawn
again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bdscan import __version__
from bench.hostile.recipe import Kind
from bench.hostile_files import HostileFile, write

RESULTS = Path(__file__).parent / "results" / "scanners.json"
ROOT = Path(__file__).parent.parent
PAGE = Path(__file__).parent / "README.md"
_DRAWN, _END = "<!-- drawn by bench/scanners.py -->", "<!-- end -->"
_SECONDS = 10  # of processor time a file; most take three, of which two are spent on starting
_MEMORY = 12 << 30  # bytes of address space
# Offline, without telemetry, and without the colours that a table of results has no use for.
_QUIET = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}

# Starting is most of what a scanner does. It is done once, and each file is looked at in a child: as if the command had
# been given for it alone. `look` is defined by what the scanner's `start` says. One line of JSON for each path.
_DRIVER = """
import json, os, resource, signal, sys, tempfile, traceback
limit, memory = int(sys.argv[1]), int(sys.argv[2])
exec(sys.argv[3])
own = resource.getrusage(resource.RUSAGE_SELF)
for line in sys.stdin:
    said = tempfile.TemporaryFile()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (limit + int(own.ru_utime), limit + int(own.ru_utime) + 1))
        signal.alarm(30 * limit)
        os.dup2(said.fileno(), 1), os.dup2(said.fileno(), 2)
        sys.argv, status = ["scanner"], 0
        try:
            status = look(json.loads(line))
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
            status = 70
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1 if status else 0)
    _, status, used = os.wait4(child, 0)
    said.seek(0)
    seconds = own.ru_utime + own.ru_stime + used.ru_utime + used.ru_stime
    told = said.read(1 << 20).decode(errors="replace")
    print(json.dumps([os.waitstatus_to_exitcode(status), round(seconds, 2), told]), flush=True)
"""

_FICKLING = """
import zipfile
from fickling.loader import scan_file, scan_zip_archive
def look(path):
    archive = zipfile.is_zipfile(path)
    found = scan_zip_archive(path, graceful=True) if archive else {path: scan_file(path, graceful=True)}
    return 3 if not found else 1 if any(not each.is_safe for each in found.values()) else 0
"""


def _program(module: str, function: str, *words: str) -> str:
    """What its console script does, with the path as the last word."""
    return f"""
import sys
from {module} import {function} as main
def look(path):
    sys.argv = [*{words!r}, path]
    return main()
"""


class Outcome(StrEnum):
    FLAGGED = "flagged"
    CLEAN = "clean"
    REFUSED = "refused"  # it says that it did not look, or could not: an exit status that stops a pipeline
    SKIPPED = "skipped"  # it did not look, and its exit status says that nothing is wrong
    TIMEOUT = "timeout"  # or killed


@dataclass(frozen=True)
class Scanner:
    """A program that looks at one file, and what its answer means."""

    name: str
    packages: tuple[str, ...]  # as they were measured; none: this checkout
    command: str  # what a user would type before the path
    start: str
    outcome: Callable[[int, str], Outcome]


def _picklescan(status: int, said: str) -> Outcome:
    if re.search(r"Infected files: [1-9]", said):
        return Outcome.FLAGGED
    if status == 0 and "Scanned files: 0" in said:
        return Outcome.SKIPPED
    return Outcome.CLEAN if status == 0 else Outcome.REFUSED


def _by_status(status: int, _: str) -> Outcome:
    return {0: Outcome.CLEAN, 1: Outcome.FLAGGED}.get(status, Outcome.REFUSED)


def bdscan_outcome(report: str) -> Outcome:
    """What one report of `inspect` says."""
    return _judged(json.loads(report))


def _judged(said: dict[str, Any]) -> Outcome:
    """Without images no verdict is `clean`: what counts is whether the file's own probe was content."""
    if said["verdict"] in ("suspicious", "backdoored"):
        return Outcome.FLAGGED
    return Outcome.REFUSED if any(run["failure"] for run in said["runs"]) else Outcome.CLEAN


def _bdscan(status: int, said: str) -> Outcome:
    start = said.find("{\n")  # what stands before it went to stderr
    return _by_status(status, said) if start < 0 else _judged(json.JSONDecoder().raw_decode(said, start)[0])


_INSPECT = ("bdscan", "inspect", "--probe", "artifact", "--format", "json")
SCANNERS = (
    Scanner(
        "modelscan",
        ("modelscan==0.8.8",),
        "modelscan -p",
        _program("modelscan.cli", "main", "modelscan", "-r", "json", "-p"),
        _by_status,
    ),
    Scanner(
        "picklescan",
        ("picklescan==1.0.5",),
        "picklescan -p",
        _program("picklescan.cli", "main", "picklescan", "-p"),
        _picklescan,
    ),
    Scanner(
        "fickling",
        ("fickling==0.1.12", "typing_extensions"),  # which it needs and does not ask for
        "fickling.loader.scan_file, and scan_zip_archive for zips",
        _FICKLING,
        _by_status,
    ),
    Scanner(
        "modelaudit",
        ("modelaudit==0.2.54",),
        "modelaudit scan --no-cache",
        _program("modelaudit.__main__", "_run", "modelaudit", "scan", "--no-cache", "--format", "json"),
        _by_status,
    ),
    Scanner("bdscan", (), "bdscan inspect --probe artifact", _program("bdscan.__main__", "main", *_INSPECT), _bdscan),
)


@dataclass(frozen=True)
class Answer:
    """What one scanner made of one file."""

    outcome: Outcome
    seconds: float  # of processor time, starting included
    ran: bool  # its canary was there afterwards: the scanner itself ran it


def environment(scanner: Scanner, work: Path) -> Path:
    """The Python that has it."""
    if not scanner.packages:
        return Path(sys.executable)
    home = work / "environments" / scanner.name
    python = home / "bin" / "python"
    if not (home / ".ready").exists():
        venv.create(home, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *scanner.packages], check=True)  # noqa: S603
        (home / ".ready").touch()
    return python


def ask(scanner: Scanner, files: Sequence[HostileFile], work: Path) -> Iterator[Answer]:
    """What it makes of each, in their order."""
    command = [str(environment(scanner, work)), "-c", _DRIVER, str(_SECONDS), str(_MEMORY), scanner.start]
    settings = {**os.environ, **_QUIET, "PYTHONPATH": "" if scanner.packages else str(ROOT), "HOME": str(work)}
    with subprocess.Popen(  # noqa: S603
        command, cwd=work, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdin is not None and driver.stdout is not None
        for file in files:
            file.canary.unlink(missing_ok=True)
            driver.stdin.write(json.dumps(str(file.path.resolve())) + "\n")
            driver.stdin.flush()
            status, seconds, said = json.loads(driver.stdout.readline())
            outcome = Outcome.TIMEOUT if status < 0 else scanner.outcome(status, said)
            yield Answer(outcome, seconds, file.canary.exists())


def measured(scanner: Scanner, files: Sequence[HostileFile], work: Path) -> dict[str, object]:
    """All its answers, as they go into the results."""
    answers = {}
    for file, answer in zip(files, ask(scanner, files, work), strict=True):
        ran = {"ran": True} if answer.ran else {}
        answers[file.name] = {"outcome": answer.outcome, "seconds": answer.seconds, **ran}
    version = scanner.packages[0].partition("==")[2] if scanner.packages else __version__
    return {"version": version, "command": scanner.command, "files": answers}


def tables(results: dict[str, Any]) -> str:
    """Markdown: how many each scanner flags, or refuses, of every kind."""
    truth, scanners = results["files"], results["scanners"]
    of_kind = {kind: [name for name, file in truth.items() if str(file["kind"]) == kind] for kind in Kind}
    head = "".join(f" {kind} ({len(names)}) |" for kind, names in of_kind.items())
    lines = [f"| |{head} ran itself | seconds |", "|---|" + "--:|" * (len(of_kind) + 2)]
    for scanner, found in scanners.items():
        answers = found["files"]
        cells = [
            _cell([str(answers[name]["outcome"]) for name in names if name in answers]) for names in of_kind.values()
        ]
        ran = sum(bool(answer.get("ran")) for answer in answers.values())
        seconds = sum(float(str(answer["seconds"])) for answer in answers.values())
        lines.append(f"| {scanner} {found['version']} | " + " | ".join(cells) + f" | {ran} | {seconds:,.0f} |")
    return "\n".join(lines)


def _cell(outcomes: list[str]) -> str:
    flagged, refused = (
        outcomes.count(Outcome.FLAGGED),
        outcomes.count(Outcome.REFUSED) + outcomes.count(Outcome.TIMEOUT),
    )
    return f"{flagged} + {refused}" if refused else str(flagged)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="a folder outside the checkout")
    parser.add_argument("--only", action="append", choices=[scanner.name for scanner in SCANNERS])
    options = parser.parse_args()
    work = options.work.resolve()
    files = write(work / "files", work / "canary")
    for scanner in SCANNERS:
        if not options.only or scanner.name in options.only:
            found = measured(scanner, files, work)
            results = read_results()
            results["files"] = {file.name: {"kind": file.recipe.kind, "truth": file.recipe.truth} for file in files}
            results["scanners"][scanner.name] = found
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    drawn = tables(read_results())
    sys.stdout.write(drawn + "\n")
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(_DRAWN)
    PAGE.write_text(f"{before}{_DRAWN}\n\n{drawn}\n\n{_END}{rest.partition(_END)[2]}", encoding="utf-8")


def read_results() -> dict[str, Any]:
    """What is known so far: each scanner is written as soon as it is done, so that several runs add up."""
    known: dict[str, Any] = {"scanners": {}}
    return known | (json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {})


if __name__ == "__main__":
    main()
