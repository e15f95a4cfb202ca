"""How hard to look."""

from __future__ import annotations

from typing import Literal, get_args

Effort = Literal["fast", "standard", "thorough"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
