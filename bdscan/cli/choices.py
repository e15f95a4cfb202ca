"""What the options may be."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path


class Format(StrEnum):
    """How the report is written."""

    text = "text"
    json = "json"
    html = "html"
    markdown = "markdown"
    sarif = "sarif"
    junit = "junit"
    cyclonedx = "cyclonedx"
    intoto = "intoto"


class FailOn(StrEnum):
    """The least verdict that is a finding."""

    suspicious = "suspicious"
    backdoored = "backdoored"


_SUFFIXES = {
    ".json": Format.json,
    ".html": Format.html,
    ".htm": Format.html,
    ".md": Format.markdown,
    ".sarif": Format.sarif,
    ".xml": Format.junit,
    ".txt": Format.text,
}
_DOUBLE_SUFFIXES = {
    ".sarif.json": Format.sarif,
    ".cdx.json": Format.cyclonedx,
    ".intoto.json": Format.intoto,
    ".intoto.jsonl": Format.intoto,
}


def by_suffix(output: Path) -> Format:
    """The form that the file's name asks for."""
    name = output.name.lower()
    double = next((form for suffix, form in _DOUBLE_SUFFIXES.items() if name.endswith(suffix)), None)
    return double or _SUFFIXES.get(Path(name).suffix, Format.text)
