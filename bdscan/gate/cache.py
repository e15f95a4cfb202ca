"""Reports kept from earlier scans, so that a model that has not changed costs nothing the next time.

A report is found again by everything that it depends on: where the model lies, the bytes of all its files, of clean
images and of class names, the options, the probes' settings, bdscan's own files, and the versions of Python and the
libraries. Clean images count by their bytes, since a CI checkout gives them new dates each time; beyond 2 GiB only
names, sizes and dates are read. A net built by a Python file is never kept: what else that file imports, nobody knows.

Whoever may write to the folder may write verdicts. It belongs to the pipeline, not to those whose models are scanned.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import Enum
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.evidence import Array
from bdscan.facts.failure import PASSING
from bdscan.facts.problem import USAGE, Problem
from bdscan.gate.provenance import digest_of_request
from bdscan.load.source import folders
from bdscan.load.source.digest import Reading
from bdscan.report import Report

_REPORT = "report"  # the name of the text among the arrays
_KIND = "bdscan.cache/2"
_TYPE, _ARRAY = "type", "array"  # keys of a dataclass's name, and of an array's


@dataclass(frozen=True)
class Cache:
    """A folder of reports; `options` is all that the user asked for, as plain values."""

    folder: Path
    options: Mapping[str, Any]

    @cached_property
    def _request(self) -> str:
        return digest_of_request(self.options)

    def key(self, path: str, address: str | None = None) -> str | None:
        """Under which name a report on this model is kept, beginning with the model's sha256; None where none is.

        `address` is where the model comes from, if it only lies at the path for a moment.
        """
        if ".py:" in self.options["arch"] or self.options.get("source"):  # other files decide as well
            return None
        try:
            model = folders.resolve(Path(path))
            sha256, request = Reading(Path(path)).digest(model.deciding), self._request
        except (OSError, Problem):  # the scan says what is wrong with it
            return None
        parts = (request, address or path, *(danger.message for danger in model.dangers))
        rest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape"))
        return f"{sha256}-{rest.hexdigest()[:32]}"

    def get(self, key: str) -> Report | None:
        """The report of an earlier scan; what is damaged or strange counts as none."""
        import numpy as np

        try:
            with self._file(key).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return unpacked(key, arrays[_REPORT].tobytes(), arrays)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def put(self, key: str, report: Report) -> None:
        """Keeps the report, whole or not at all; one that another run would finish is not kept."""
        changed = report.subject.sha256 != key[:64]  # while it was being looked at
        if changed or any(run.failure and run.failure.kind in PASSING for run in report.runs):
            return
        import numpy as np

        text, arrays = packed(key, report)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with AtomicFiles(synced=False) as files:
                temporary = files.temporary(self._file(key))
                temporary.touch(mode=0o600, exist_ok=False)  # verdicts are their owner's to read
                with temporary.open("wb") as file:
                    np.savez_compressed(file, **{_REPORT: np.frombuffer(text, np.uint8)}, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise Problem(f"cannot write to the cache `{self.folder}`: {error.strerror}", status=USAGE) from None

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.npz"


def packed(key: str, report: Report) -> tuple[bytes, dict[str, Array]]:
    """A report as text, and the arrays beside it: by its types, whatever they are, and exact to the last digit."""
    arrays: dict[str, Array] = {}
    text = json.dumps({"kind": _KIND, "key": key, "report": _plain(report, arrays)})
    return text.encode(), arrays


def unpacked(key: str, text: bytes, arrays: Mapping[str, Array]) -> Report | None:
    """The report again; None where the text is of another key or kind."""
    kept = json.loads(text)
    if (kept["kind"], kept["key"]) != (_KIND, key):
        return None
    report: Report = _typed(Report, kept["report"], arrays)
    return report


def _plain(value: Any, arrays: dict[str, Array]) -> Any:
    """Nothing but what JSON knows; arrays stand aside."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name), arrays) for field in dataclasses.fields(value)}
        return {_TYPE: type(value).__name__, **fields}
    if getattr(value, "ndim", 0):
        name = str(len(arrays))
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, arrays) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, arrays) for inner in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return value.item() if hasattr(value, "item") else str(value)  # NumPy's numbers; dates and paths


def _typed(kind: Any, plain: Any, arrays: Mapping[str, Array]) -> Any:
    """The value of that type."""
    if plain is None:
        return None
    if isinstance(plain, dict) and plain.keys() == {_ARRAY}:
        return arrays[plain[_ARRAY]]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _typed(_named(inner, plain), plain, arrays)
    if origin is tuple:
        return tuple(_typed(inner[0], each, arrays) for each in plain)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(plain)
    if kind is date:
        return date.fromisoformat(plain)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return kind(**{name: _typed(hints[name], each, arrays) for name, each in plain.items() if name != _TYPE})
    return plain


def _named(kinds: tuple[Any, ...], plain: Any) -> Any:
    """The one of several types that the value is of."""
    possible = [kind for kind in kinds if kind is not type(None)]
    name = plain.get(_TYPE) if isinstance(plain, dict) else None
    return next((kind for kind in possible if getattr(kind, "__name__", "") == name), possible[0])


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
