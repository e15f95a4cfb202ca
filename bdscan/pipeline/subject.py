"""The file that was opened, as the report tells of it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from bdscan import __version__
from bdscan.load.contents import Contents
from bdscan.pipeline.options import Options
from bdscan.report import Subject

if TYPE_CHECKING:  # a file can be scanned without torch
    from bdscan.load.assembly.loaded import Loaded


def open_net(contents: Contents, options: Options) -> Loaded:
    """The net in the file, and the images beside it."""
    from bdscan.images.source import open_images
    from bdscan.load.assembly.assemble import load

    return load(
        contents,
        arch=options.arch,
        source=options.source,
        normalize=options.normalize,
        images=open_images(options.clean) if options.clean else None,
        classes=options.classes,
        device=options.device,
        size=options.size,
        progress=partial(options.show, "load"),
    )


def subject_of(contents: Contents, loaded: Loaded | None) -> Subject:
    """What was looked at."""
    if loaded is None:
        return Subject(path=str(contents.path), sha256=contents.sha256, format=contents.format)
    return subject_of_net(str(contents.path), loaded, contents.sha256)


def subject_of_net(path: str, loaded: Loaded, sha256: str | None = None) -> Subject:
    return Subject(
        path=path,
        sha256=sha256,
        format=loaded.format,
        arch=loaded.arch,
        classes=loaded.suspect.classes,
        input=loaded.suspect.shape,
        normalize=loaded.normalize,
        tensors_loaded=loaded.tensors_loaded,
        tensors_total=loaded.tensors_total,
        names=loaded.suspect.names,
    )


def made_with(options: Options, loaded: Loaded | None, seconds: float) -> Mapping[str, object]:
    """Versions, device, seed, seconds."""
    torch = sys.modules.get("torch")
    return {
        "bdscan": __version__,
        "torch": torch.__version__ if torch else None,
        "python": platform.python_version(),
        "device": str(loaded.suspect.device) if loaded else None,
        "effort": options.effort,
        "seed": options.seed,
        "seconds": round(seconds, 2),
    }
