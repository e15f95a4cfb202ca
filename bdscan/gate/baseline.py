"""What was found before and is known: a file of findings that are still told, but no longer fail the gate.

    {"schema": "bdscan.baseline/1",
     "findings": [{"rule": "suspicious-model", "fingerprint": "4f0c…:1", "path": "models/signs.pt",
                   "sha256": "d66e…", "found": {"net": "suspicious"}}]}

An entry holds for these bytes alone, and only for what is no worse than what it says: of the file (`file`), of the net
in it (`net`), and of what a policy asks for (`policy`), each on its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bdscan.facts.finding import Verdict
from bdscan.facts.problem import USAGE, Problem
from bdscan.report import Report
from bdscan.report.rules import fingerprint, rule
from bdscan.verdict.joint import FILE
from bdscan.verdict.judge import judge

SCHEMA = "bdscan.baseline/1"
_KINDS = ("file", "net", "policy")
_FINDINGS = {each.word: each for each in (Verdict.SUSPICIOUS, Verdict.BACKDOORED)}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model's known findings."""

    rule: str
    fingerprint: str
    path: str  # for people: the bytes count wherever they lie
    sha256: str
    found: Mapping[str, str]  # kind -> verdict

    def covers(self, found: Mapping[str, str]) -> bool:
        """Whether nothing is found that is new or worse."""
        return all(
            kind in self.found and _FINDINGS[word] <= _FINDINGS[self.found[kind]] for kind, word in found.items()
        )

    @classmethod
    def from_json(cls, value: object) -> Entry:
        """An entry of the file; a `ValueError` with a sentence where it is none."""
        names = cls.__dataclass_fields__.keys()
        if not isinstance(value, dict) or value.keys() != names:
            raise ValueError(f"an entry does not have {', '.join(f'`{name}`' for name in names)}")
        found, texts = value["found"], {name: value[name] for name in names if name != "found"}
        if not all(isinstance(text, str) for text in texts.values()) or not isinstance(found, dict):
            raise ValueError("an entry holds something else than text")
        if not re.fullmatch("[0-9a-f]{64}", value["sha256"]):
            raise ValueError(f"`{value['sha256'][:80]}` is no sha256")
        if not found or not all(kind in _KINDS and word in list(_FINDINGS) for kind, word in found.items()):
            raise ValueError(f"the entry on `{value['path']}` does not say what was found")
        return cls(**texts, found=found)


@dataclass(frozen=True)
class Baseline:
    """All entries, by sha256."""

    entries: Mapping[str, Entry]

    def applied(self, report: Report) -> Report:
        """The report with whether what it found is new; without a finding there is nothing to say."""
        if not (found := _found(report)):
            return report
        entry = self.entries.get(report.subject.sha256 or "")
        return replace(report, baseline="unchanged" if entry and entry.covers(found) else "new")

    def outdated(self, has_findings: Mapping[str, bool]) -> Iterator[str]:
        """A sentence for each entry that fits no file; `has_findings` has the sha256 of each that was looked at."""
        for sha256, entry in self.entries.items():
            name = f"the baseline's entry on {entry.path} ({sha256[:12]}…)"
            if sha256 not in has_findings:
                yield f"{name} fits none of the files that were looked at"
            elif not has_findings[sha256]:
                yield f"{name} no longer applies: nothing was found this time"

    def to_json(self) -> str:
        """The file's text, the same for the same findings."""
        entries = sorted(self.entries.values(), key=lambda entry: (entry.path, entry.sha256))
        return json.dumps({"schema": SCHEMA, "findings": [vars(entry) for entry in entries]}, indent=2)


def entry_of(report: Report) -> Entry | None:
    """What a baseline keeps of the report; None where it found nothing."""
    found, broken, sha256 = _found(report), rule(report), report.subject.sha256
    if not found or broken is None or sha256 is None:
        return None
    mark = fingerprint(broken.id, sha256)
    return Entry(rule=broken.id, fingerprint=mark, path=report.subject.path, sha256=sha256, found=found)


def read_baseline(path: Path) -> Baseline:
    """The baseline in a file; a `Problem` where it is none."""
    try:
        return _from_json(path.read_bytes())
    except OSError as error:
        raise Problem(f"the baseline `{path}` cannot be read: {error.strerror}", status=USAGE) from None
    except ValueError as error:
        hint = "write one with `--write-baseline`"
        raise Problem(f"the baseline `{path}` is none: {error}", hint=hint, status=USAGE) from None


def _from_json(text: bytes) -> Baseline:
    try:
        document = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    findings = document.get("findings") if isinstance(document, dict) and document.get("schema") == SCHEMA else None
    if not isinstance(findings, list):
        raise ValueError(f"its schema is not `{SCHEMA}`")
    return Baseline({entry.sha256: entry for entry in map(Entry.from_json, findings)})


def _found(report: Report) -> dict[str, str]:
    """Each kind of which something is found, and how grave that is by itself."""
    file, net = (
        judge(tuple(run for run in report.runs if (run.family == FILE) is of_file)).verdict for of_file in (True, False)
    )
    found = {kind: verdict.word for kind, verdict in (("file", file), ("net", net)) if verdict >= Verdict.SUSPICIOUS}
    if not found and report.verdict >= Verdict.SUSPICIOUS:  # it rests on more than the runs, as after a treatment
        found["net"] = report.verdict.word
    return found | ({"policy": Verdict.SUSPICIOUS.word} if report.refused else {})
