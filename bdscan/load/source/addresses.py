"""Models that lie elsewhere: `s3://`, `gs://`, `hf://`, `https://` and MLflow's `models:/`, lent for as long as one is
looked at.

Nothing is fetched but what the user gave the address of. It goes into a folder that nobody else can read, within a
limit, and the folder goes away again, also after Ctrl-C.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bdscan.facts.problem import USAGE, Problem

MOST_MB = 5_000  # for one model: the largest classifiers of timm take four gigabytes
Tell = Callable[[int, int], None]  # bytes that are here, bytes in all

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://|models:/", re.IGNORECASE)
_REMOTE = "pip install 'bdscan[remote]'"
_MLFLOW = "pip install 'bdscan[mlflow]'"


def is_address(name: str) -> bool:
    return _ADDRESS.match(name) is not None


def shown(address: str) -> str:
    """Without passwords, and without the query, which is where signed links carry theirs."""
    return re.sub(r"(?<=://)[^/@]*@", "", address.partition("?")[0])


def too_large(address: str, most: float) -> Problem:
    message = f"`{shown(address)}` is larger than the {most / 1e6:,.0f} MB that may be fetched"
    return Problem(message, hint="`--max-size MB` allows more")


def check(address: str) -> None:
    """Whether anything here can fetch it; a `Problem` of usage where nothing can, before any work is done."""
    scheme = (_ADDRESS.match(address) or [""])[1]
    if scheme is None:
        if importlib.util.find_spec("mlflow") is None:
            raise Problem(f"`{shown(address)}` takes MLflow, which is not installed", hint=_MLFLOW, status=USAGE)
        return
    if "::" in address:
        raise Problem(f"`{shown(address)}` is a chain of addresses", hint="name the model's own", status=USAGE)
    try:
        from fsspec import get_filesystem_class

        get_filesystem_class(scheme.lower())
    except ValueError:
        known = "s3://, gs://, hf:// and https:// are the usual ones"
        raise Problem(f"nobody knows addresses that begin with `{scheme}://`", hint=known, status=USAGE) from None
    except ImportError:
        message = f"`{scheme}://` takes a driver that is not installed"
        raise Problem(message, hint=_REMOTE, status=USAGE) from None


@contextmanager
def lent(name: str, most: float = MOST_MB * 1e6, tell: Tell = lambda here, whole: None) -> Iterator[Path]:
    """The path where the model lies while the block lasts: its own, or that of a copy of what the address names."""
    if not is_address(name):
        yield Path(name)
        return
    with tempfile.TemporaryDirectory(prefix="bdscan-", ignore_cleanup_errors=True) as folder:
        if name.lower().startswith("models:/"):
            from bdscan.load.source.mlflow import fetch
        else:
            from bdscan.load.source.remote import fetch
        yield fetch(name, Path(folder), most, tell)
