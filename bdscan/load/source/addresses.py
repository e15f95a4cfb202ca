"""What is an address and what a path: `s3://`, `gs://`, `hf://`, `https://` and MLflow's `models:/` lie elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bdscan.facts.problem import Problem

MAX_MODEL_MB = 5_000  # for one model: the largest classifiers of timm take four gigabytes
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://|models:/", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """A name that leads elsewhere, with what decides who can fetch it."""

    text: str
    scheme: str  # in lower case; empty: MLflow's registry

    @property
    def shown(self) -> str:
        return shown(self.text)


def parse(name: str) -> Address | None:
    """None where the name is a path."""
    match = _ADDRESS.match(name)
    return Address(name, (match[1] or "").lower()) if match else None


def shown(name: str) -> str:
    """Without passwords, and without the query, which is where signed links carry theirs."""
    return re.sub(r"(?<=://)[^/@]*@", "", name.partition("?")[0])


def too_large(address: Address, max_bytes: float) -> Problem:
    message = f"`{address.shown}` is larger than the {max_bytes / 1e6:,.0f} MB that may be fetched"
    return Problem(message, hint="`--max-size MB` allows more")
