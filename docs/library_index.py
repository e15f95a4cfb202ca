"""Lists torchvision's and timm's classifiers for `bdscan/load/arch/library_index.json`: `make index`.

Nets of earlier releases stay in the list; nets whose tensors are the same share an entry, the plainest name first.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterator
from functools import partial

from bdscan.load.arch import from_timm, from_torchvision
from bdscan.load.arch.library_index import INDEX, sketch
from bdscan.load.arch.match import without_memory
from bdscan.load.nets.candidate import Candidate, outline_of

_MOST = 10_000  # tensors in a net


def _candidates() -> Iterator[Candidate]:
    library = from_torchvision.models()
    for name in library.list_models(module=library):
        build = partial(library.get_model, name, weights=None)
        yield Candidate(name=f"torchvision:{name}", build=build)
    if importlib.util.find_spec("timm"):
        timm = from_timm.library()
        for name in timm.list_models():
            yield Candidate(name=f"timm:{name}", build=partial(timm.create_model, name, pretrained=False))


def main() -> None:
    """Adds what the installed libraries have to the list."""
    table = {entry: names.split() for entry, names in json.loads(INDEX.read_text()).items()} if INDEX.exists() else {}
    listed = {name: entry for entry, names in table.items() for name in names}
    for candidate in _candidates():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                entry = sketch(outline_of(without_memory(candidate, _MOST).state_dict()))
        except Exception as error:  # noqa: BLE001 - a net that this release cannot build
            print(f"{candidate.name}: {error}")  # noqa: T201
            continue
        if candidate.name in listed:
            table[listed[candidate.name]].remove(candidate.name)
        table.setdefault(entry, []).append(candidate.name)
    order = {entry: sorted(names, key=_plainest) for entry, names in table.items() if names}
    lines = {entry: " ".join(order[entry]) for entry in sorted(order, key=lambda entry: _plainest(order[entry][0]))}
    INDEX.write_text(json.dumps(lines, indent=0) + "\n")


def _plainest(name: str) -> tuple[bool, int, str]:
    """torchvision's first, then the shorter name."""
    return (not name.startswith("torchvision"), len(name), name)


if __name__ == "__main__":
    main()
