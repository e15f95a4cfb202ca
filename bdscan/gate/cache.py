"""Reports kept from earlier scans, so that a model that has not changed costs nothing the next time.

A report is found again by everything that it depends on: where the model lies, the bytes of model, clean images and
class names, the options, the probes' settings, bdscan's own files, and the versions of Python and the libraries. Clean
images count by their bytes, since a CI checkout gives them new dates each time; beyond 2 GiB only names, sizes and
dates are read. A net built by a Python file is never kept: what else that file imports, nobody knows.

Whoever may write to the folder may write verdicts. It belongs to the pipeline, not to those whose models are scanned.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.failure import PASSING
from bdscan.facts.problem import USAGE, Problem
from bdscan.gate import cache_form, cache_key
from bdscan.gate.provenance import sha256_of
from bdscan.load.source import folders
from bdscan.report import Report

_REPORT = "report"  # the name of the text among the arrays


@dataclass(frozen=True)
class Cache:
    """A folder of reports; `options` is all that the user asked for, as plain values."""

    folder: Path
    options: Mapping[str, Any]

    @cached_property
    def _request(self) -> str:
        return cache_key.digest_of(self.options)

    def key(self, path: str, address: str | None = None) -> str | None:
        """Under which name a report on this model is kept, beginning with the model's sha256; None where none is.

        `address` is where the model comes from, if it only lies at the path for a moment.
        """
        if ".py:" in self.options["arch"]:
            return None
        try:
            model = folders.resolve(Path(path))
            sha256, request = sha256_of(*model.files), self._request
            index = sha256_of(model.weights) if model.shards else ""
        except (OSError, Problem):  # the scan says what is wrong with it
            return None
        config = json.dumps(model.config, sort_keys=True)
        parts = (request, address or path, config, index, *(danger.message for danger in model.dangers))
        rest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape"))
        return f"{sha256}-{rest.hexdigest()[:32]}"

    def get(self, key: str) -> Report | None:
        """The report of an earlier scan; what is damaged or strange counts as none."""
        import numpy as np

        try:
            with self._file(key).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cache_form.unpacked(key, arrays[_REPORT].tobytes(), arrays)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def put(self, key: str, report: Report) -> None:
        """Keeps the report, whole or not at all; one that another run would finish is not kept."""
        changed = report.subject.sha256 != key[:64]  # while it was being looked at
        if changed or any(run.failure and run.failure.kind in PASSING for run in report.runs):
            return
        import numpy as np

        text, arrays = cache_form.packed(key, report)
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
