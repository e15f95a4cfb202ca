"""What a driver raised, as one sentence: there are dozens of drivers, each with errors of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from bdscan.facts.problem import Problem
from bdscan.load.source.addresses import Address

_REASONS = {401: "it asks for a password", 403: "access is denied", 404: "there is no such file"}


@contextmanager
def explained(address: Address) -> Iterator[None]:
    """Whatever goes wrong inside becomes a `Problem`."""
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
    if status in _REASONS:
        return _REASONS[status]
    if isinstance(cause, PermissionError):
        return _REASONS[403]
    if isinstance(cause, FileNotFoundError):
        return _REASONS[404]
    if isinstance(cause, TimeoutError):
        return "no answer came in time"
    if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
        return cause.strerror
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(cause)).replace(address.text, address.shown)
    lines = text.strip().splitlines()
    message = re.sub(r"\?[^\s\"']+", "", lines[0])[:200].rstrip(".") if lines else ""
    return f"{message or 'the driver gives no reason'} ({type(cause).__name__})"
