"""Models that lie elsewhere, copied here for as long as one is looked at.

Nothing is fetched but what the user gave the address of. It goes into a folder that nobody else can read, within a
limit, and the folder goes away again, also after Ctrl-C.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bdscan.facts.problem import USAGE, Problem
from bdscan.load.source import mlflow, remote
from bdscan.load.source.addresses import MAX_MODEL_MB, Address, parse

_INSTALL_REMOTE = "pip install 'bdscan[remote]'"
_INSTALL_MLFLOW = "pip install 'bdscan[mlflow]'"


def check(address: Address) -> None:
    """Whether anything here can fetch it; a `Problem` of usage where nothing can, before any work is done."""
    if not address.scheme:
        if importlib.util.find_spec("mlflow") is None:
            message = f"`{address.shown}` takes MLflow, which is not installed"
            raise Problem(message, hint=_INSTALL_MLFLOW, status=USAGE)
        return
    if "::" in address.text:
        raise Problem(f"`{address.shown}` is a chain of addresses", hint="name the model's own", status=USAGE)
    written = address.text.partition("://")[0]
    try:
        from fsspec import get_filesystem_class

        get_filesystem_class(address.scheme)
    except ValueError:
        hint = "s3://, gs://, hf:// and https:// are the usual ones"
        raise Problem(f"nobody knows addresses that begin with `{written}://`", hint=hint, status=USAGE) from None
    except ImportError:
        message = f"`{written}://` takes a driver that is not installed"
        raise Problem(message, hint=_INSTALL_REMOTE, status=USAGE) from None


@contextmanager
def local_copy(
    name: str,
    max_bytes: float = MAX_MODEL_MB * 1e6,
    on_bytes: Callable[[int, int], None] = lambda received, expected: None,
) -> Iterator[Path]:
    """The path where the model lies while the block lasts: its own, or that of a copy of what the address names."""
    address = parse(name)
    if address is None:
        yield Path(name)
        return
    with tempfile.TemporaryDirectory(prefix="bdscan-", ignore_cleanup_errors=True) as folder:
        fetch = remote.fetch if address.scheme else mlflow.fetch
        yield fetch(address, Path(folder), max_bytes, on_bytes)
