"""What is an address and what a path: `s3://`, `gs://`, `hf://`, `https://` and MLflow's `models:/` lie elsewhere."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bdscan.facts.problem import Problem, unusable

MAX_MODEL_MB = 5_000  # for one model: the largest classifiers of timm take four gigabytes
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://|models:/", re.IGNORECASE)
_DENIED, _MISSING = "access is denied", "there is no such file"
_BY_STATUS = {401: "it asks for a password", 403: _DENIED, 404: _MISSING}
_BY_TYPE = ((PermissionError, _DENIED), (FileNotFoundError, _MISSING), (TimeoutError, "no answer came in time"))


@dataclass(frozen=True)
class Address:
    """A name that leads elsewhere, with what decides who can fetch it."""

    text: str
    scheme: str  # in lower case; empty: MLflow's registry

    @property
    def shown(self) -> str:
        return shown(self.text)

    def check_size(self, size: float, max_bytes: float) -> None:
        if size > max_bytes:
            message = f"`{self.shown}` is larger than the {max_bytes / 1e6:,.0f} MB that may be fetched"
            raise Problem(message, hint="`--max-size MB` allows more")


def parse(name: str) -> Address | None:
    """None where the name is a path."""
    match = _ADDRESS.match(name)
    return Address(name, (match[1] or "").lower()) if match else None


def shown(name: str) -> str:
    """Without passwords, and without the query, which is where signed links carry theirs."""
    return re.sub(r"(?<=://)[^/@]*@", "", name.partition("?")[0])


def check(address: Address) -> None:
    """Whether anything here can fetch it; a `Problem` of usage where nothing can, before any work is done."""
    if not address.scheme:
        if importlib.util.find_spec("mlflow") is None:
            raise unusable(f"`{address.shown}` takes MLflow, which is not installed", "pip install 'bdscan[mlflow]'")
        return
    if "::" in address.text:
        raise unusable(f"`{address.shown}` is a chain of addresses", "name the model's own")
    written = address.text.partition("://")[0]
    try:
        from fsspec import get_filesystem_class

        get_filesystem_class(address.scheme)
    except ValueError:
        message = f"nobody knows addresses that begin with `{written}://`"
        raise unusable(message, "s3://, gs://, hf:// and https:// are the usual ones") from None
    except ImportError:
        raise unusable(f"`{written}://` takes a driver that is not installed", "pip install 'bdscan[remote]'") from None


@contextmanager
def explained(address: Address) -> Iterator[None]:
    """Whatever a driver raises becomes a `Problem`: there are dozens of drivers, each with errors of its own."""
    try:
        yield
    except Problem:
        raise
    except Exception as error:  # noqa: BLE001
        raise Problem(f"`{address.shown}` cannot be fetched: {_reason(error, address)}") from None


def _reason(error: BaseException, address: Address) -> str:
    """In plain words where there are some; else the driver's own, without what the address hides."""
    cause = error.__cause__ or error
    status = getattr(cause, "status", None) or getattr(getattr(cause, "response", None), "status_code", None)
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    reason = next((reason for kind, reason in _BY_TYPE if isinstance(cause, kind)), None)
    if reason is None and isinstance(cause, OSError) and cause.errno is not None:
        reason = cause.strerror
    if reason:
        return reason
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(cause)).replace(address.text, address.shown)
    lines = text.strip().splitlines()
    message = re.sub(r"\?[^\s\"']+", "", lines[0])[:200].rstrip(".") if lines else ""
    return f"{message or 'the driver gives no reason'} ({type(cause).__name__})"
