"""The one sentence for what stands in the way of rebuilding a graph."""

from __future__ import annotations

from collections.abc import Sequence

from bdscan.facts.problem import Problem
from bdscan.load.pickle.effects import quoted

_MAX_SHOWN = 20  # operators in one sentence


def cannot_be_rebuilt(operators: Sequence[str]) -> Problem:
    """Names every operator that nobody vouches for here."""
    shown = ", ".join(map(quoted, operators[:_MAX_SHOWN])) + (" ..." if len(operators) > _MAX_SHOWN else "")
    hint = "`--arch` judges its weights alone in a net that is named, without what its code does"
    return Problem(f"it uses operators that cannot be rebuilt: {shown}", hint=hint)
