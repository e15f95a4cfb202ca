"""How many published checkpoints load: `python -m bench.published FILES [--data DATA] [--split NAME] [--out CSV]`.

FILES is a folder with the files of `bench/published.csv`, each as OWNER+REPOSITORY/NAME; DATA one with labelled test
images, as MNIST.npz and so on, named as in the table's column `data`. A file that is not there is left out; one with
another digest ends the run. Each is inspected twice, with images where there are any and without, in a process of its
own that starts with what is imported already.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import resource
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

TABLE = Path(__file__).parent / "published.csv"
_PROBES = ("--probe", "artifact", "--probe", "head")  # the quickest that needs the net
_BY_CHOICE = "choice"  # the run that says which probes did not look
_SECONDS = 120  # of processor time a run
_PATIENCE = 900  # seconds by the clock, where other programs are at work too
_MEMORY = 14 << 30  # bytes of address space
_AT_ONCE = 2
_IMPORTED = [
    "torchvision",
    "onnx",
    "bdscan.cli",
    "bdscan.pipeline.inspect",
    "bdscan.load.assembly.assemble",
    "bdscan.probes.head",
]
# What a linear layer alone reaches on these images, less five points (for signs: half): a net that is less often right
# was badly trained or is not the one that was trained.
_FLOORS = {"mnist": 0.87, "fashion": 0.79, "cifar10": 0.34, "gtsrb": 0.5}
_OTHER = "not an image classifier"
_LITERALS = re.compile(r"`[^`]*`(?: \([^)]*\))?(?:,? (?:and )?`[^`]*`(?: \([^)]*\))?)*")


@dataclass(frozen=True)
class Published:
    """A row of the table."""

    repository: str
    commit: str
    path: str
    sha256: str
    bytes: str
    split: str
    category: str
    data: str

    def within(self, folder: Path) -> Path:
        return folder / self.repository.replace("/", "+") / Path(self.path).name


@dataclass(frozen=True)
class Run:
    """What one inspection came to."""

    loaded: bool
    accuracy: float | None
    seconds: float  # of processor time, without starting
    said: str  # why it did not load, or what was built
    doubts: str = ""  # what keeps a net that loaded from being called clean


@dataclass(frozen=True)
class Result:
    """One file, with images and without."""

    file: Published
    shown: Run | None
    alone: Run


def rows(table: Path, split: str | None) -> Iterator[Published]:
    with table.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if split in (None, row["split"]):
                yield Published(**row)


def _inspect(words: Sequence[str], answer: Connection) -> None:
    """In the child: the report and the processor time it took."""
    from bdscan.cli import main

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS + 1))
    sys.argv = ["bdscan", "inspect", *words, "--format", "json"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        main()
    used = resource.getrusage(resource.RUSAGE_SELF)
    answer.send((said.getvalue(), used.ru_utime + used.ru_stime))


def ask(words: Sequence[str]) -> Run:
    """Runs `bdscan inspect` in a process of its own."""
    context = get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_inspect, args=(words, there), daemon=True)
    child.start()
    there.close()
    try:
        report, seconds = here.recv() if here.poll(_PATIENCE) else ("", float(_PATIENCE))
    except EOFError:
        report, seconds = "", float(_SECONDS)
    child.kill()
    child.join()
    start = report.find("{\n")
    if start < 0:
        return Run(False, None, round(seconds, 2), f"no report ({report.strip() or 'killed'})")
    return _read(json.loads(report[start:]), seconds)


def _read(report: dict[str, object], seconds: float) -> Run:
    subject, runs = report["subject"], report["runs"]
    assert isinstance(subject, dict) and isinstance(runs, list)
    total = subject["tensors_total"]
    loaded = total is not None and subject["tensors_loaded"] == total
    failures = [f"{run['probe']}: {run['failure']}" for run in runs if run["failure"] and run["probe"] != _BY_CHOICE]
    said = f"{subject['arch']}, {subject['normalize']}" if loaded else "; ".join(failures) or str(report["reasons"])
    accuracy = report["clean_accuracy"]
    assert accuracy is None or isinstance(accuracy, float)
    return Run(loaded, accuracy, round(seconds, 2), said, "; ".join(failures) if loaded else "")


def examine(file: Published, folder: Path, data: Path | None) -> Result:
    path = file.within(folder)
    if hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
        sys.exit(f"{path} is not the file of the table")
    images = data / f"{file.data}.npz" if data else None
    alone = ask((str(path), *_PROBES))
    shown = ask((str(path), *_PROBES, "--clean", str(images))) if images and images.is_file() else None
    return Result(file, shown, alone)


def _is_right(result: Result) -> bool:
    run = result.shown
    return run is not None and run.loaded and (run.accuracy or 0) >= _FLOORS.get(result.file.data, 0)


def table(results: Sequence[Result]) -> str:
    """Markdown: what loads of each category."""
    lines = ["| | files | load alone | with images | right | inaccurate | of these in doubt | seconds, median, most |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
    groups = {name: [each for each in results if each.file.category == name] for name in _categories(results)}
    groups["image classifiers"] = [each for each in results if each.file.category != _OTHER]
    for name, group in groups.items():
        shown = [each for each in group if each.shown]
        loaded = [each for each in shown if each.shown and each.shown.loaded]
        right = sum(map(_is_right, loaded))
        seconds = [(each.shown or each.alone).seconds for each in group]
        times = f"{statistics.median(seconds):.1f}, {max(seconds):.0f}" if seconds else ""
        alone = sum(each.alone.loaded for each in group)
        wrong = [each for each in loaded if not _is_right(each)]
        doubted = sum(bool(each.shown and each.shown.doubts) for each in wrong)
        figures = (len(group), alone, len(shown), right, len(wrong), doubted, times)
        lines.append(f"| {name} | {' | '.join(map(str, figures))} |")
    return "\n".join(lines)


def _categories(results: Sequence[Result]) -> list[str]:
    counts = Counter(each.file.category for each in results)
    return sorted(counts, key=lambda name: (name == _OTHER, -counts[name]))


def refusals(results: Sequence[Result]) -> str:
    """The commonest sentences, without the names in them."""
    runs = [each.shown or each.alone for each in results]
    said = Counter(re.sub(r"\b\d+\b", "N", _LITERALS.sub("`…`", run.said)) for run in runs if not run.loaded)
    return "\n".join(f"{count:4}  {sentence[:240]}" for sentence, count in said.most_common(15))


def write(results: Sequence[Result], target: Path) -> None:
    names = [field.name for field in fields(Run)]
    head = [field.name for field in fields(Published)]
    with target.open("w", encoding="utf-8", newline="") as lines:
        out = csv.writer(lines, lineterminator="\n")
        out.writerow([*head, *(f"alone_{name}" for name in names), *(f"shown_{name}" for name in names)])
        for each in results:
            out.writerow([*astuple(each.file), *astuple(each.alone), *(astuple(each.shown) if each.shown else ())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path)
    parser.add_argument("--data", type=Path, help="labelled test images, as NAME.npz")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--split", choices=("dev", "test", "fresh"))
    parser.add_argument("--out", type=Path, help="the results, a row a file")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    get_context("forkserver").set_forkserver_preload(_IMPORTED)
    files = [file for file in rows(options.table, options.split) if file.within(options.files).is_file()]
    results = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for result in pool.map(lambda file: examine(file, options.files, options.data), files):
            results.append(result)
            run = result.shown or result.alone
            sys.stderr.write(f"{len(results)}/{len(files)} {result.file.repository}: {run.said[:90]}\n")
            if options.out:
                write(results, options.out)
    sys.stdout.write(f"{table(results)}\n\n{refusals(results)}\n")


if __name__ == "__main__":
    main()
