"""Writes the table of constants into `docs/verdict.md`: `make rules`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from bdscan.verdict.calibration import STATISTICS
from bdscan.verdict.rules import RULES

PAGE = Path(__file__).with_name("verdict.md")
BEGIN, END = "<!-- written by docs/rules.py -->", "<!-- end -->"


def table() -> Iterator[str]:
    """The constants of the rules, and those that `make reference` measures."""
    yield "| constant | value | says | source | set on | tested on |"
    yield "|---|--:|---|---|---|---|"
    for rule in RULES:
        yield f"| `{rule.name}` | {rule.value:g} | {rule.says} | {rule.source} | {rule.set_on} | {rule.tested_on} |"
    document = json.loads(STATISTICS.read_text(encoding="utf-8"))
    joint = document.get("joint", {"stretch": 1.0})
    nets = f"{joint['nets']} clean nets" if "nets" in joint else "no net: independent families"
    says = "how much further than independent families' the sums go on clean nets"
    yield f"| stretch | {joint['stretch']:g} | {says} | `make reference` | {nets} | no fresh net yet |"
    for name, kinds in document["statistics"].items():
        for kind, figures in kinds.items():
            says = "how far the classes of a clean net lie apart (log)" if kind == "spread" else "of a whole net (log)"
            heavy = f", tail {figures['heavy']:g} times Student's" if figures.get("heavy", 1) > 1 else ""
            value = f"{figures['sd']:g}{heavy}"
            nets = f"{figures['nets']:g} clean nets" if "nets" in figures else "clean nets"
            yield f"| {kind} of `{name}` | {value} | {says} | `make reference` | {nets} | no fresh net yet |"


def page(text: str) -> str:
    """The page with the table of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join((before + BEGIN, "", *table(), "", END + after))


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
