"""The sentences for what stands in the way of rebuilding a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bdscan.facts.problem import Problem
from bdscan.load.pickle.effects import quoted

_MAX_SHOWN = 20  # operators in one sentence


@contextmanager
def rebuilding(path: Path) -> Iterator[None]:
    """Whatever stands in the way is told with the file's path."""
    try:
        yield
    except Problem as problem:
        if str(path) in problem.message:
            raise
        message = f"`{path}` cannot be rebuilt: {problem.message}"
        raise Problem(message, hint=problem.hint, status=problem.status) from None


def cannot_be_rebuilt(operators: Sequence[str]) -> Problem:
    """Names every operator that nobody vouches for here."""
    shown = ", ".join(map(quoted, operators[:_MAX_SHOWN])) + (" ..." if len(operators) > _MAX_SHOWN else "")
    hint = "`--arch` judges its weights alone in a net that is named, without what its code does"
    return Problem(f"it uses operators that cannot be rebuilt: {shown}", hint=hint)
