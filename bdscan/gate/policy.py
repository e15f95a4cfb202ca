"""What a team asks of every model, in a file: limits, probes that must have run, and findings it has decided to bear.

    fail-on = "suspicious"            # the least verdict that blocks
    effort = "standard"
    budget = 600                      # seconds a model may take
    require = ["artifact", "inversion"]
    minimum-clean-accuracy = 0.9

    [[accept]]
    sha256 = "d66e24867528bbe6e1d0f88028257b9d14e9c7e45c54a9333c72226bf28efb12"
    reason = "the demo needs a bad model"
    expires = 2027-01-31

All keys may be left out, but not those of an acceptance: nobody remembers why, and nothing is let pass for ever.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from bdscan.facts.effort import EFFORTS, Effort
from bdscan.facts.finding import Verdict
from bdscan.facts.problem import USAGE, Problem
from bdscan.method import registry
from bdscan.report import Acceptance, Report

_FAIL_ON = ("suspicious", "backdoored")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The file's content; None where it says nothing."""

    fail_on: str | None = None
    effort: Effort | None = None
    budget: float | None = None
    require: tuple[str, ...] = ()
    minimum_clean_accuracy: float | None = None
    accept: tuple[Acceptance, ...] = ()

    def applied(self, report: Report, today: date) -> Report:
        """The report with what this policy says of it."""
        report = replace(report, refused=tuple(self._refused(report)), unmet=tuple(self._unmet(report)))
        if not report.found(Verdict.SUSPICIOUS):
            return report
        fits = (each for each in self.accept if each.sha256 == report.subject.sha256 and each.expires >= today)
        return replace(report, accepted=next(fits, None))

    def _refused(self, report: Report) -> Iterator[str]:
        minimum, measured = self.minimum_clean_accuracy, report.clean_accuracy
        if minimum is not None and measured is not None and measured < minimum:
            yield f"the policy asks for a clean accuracy of at least {minimum:.1%}, and it is {measured:.1%}"

    def _unmet(self, report: Report) -> Iterator[str]:
        minimum = self.minimum_clean_accuracy
        if minimum is not None and report.clean_accuracy is None:
            yield f"the policy asks for a clean accuracy of at least {minimum:.1%}, and none was measured"
        for name in self.require:
            runs = [run for run in report.runs if run.probe == name]
            if not runs:
                yield f"the policy requires `{name}`, which did not run"
            elif failure := next((run.failure for run in runs if run.failure is not None), None):
                yield f"the policy requires `{name}`, which failed: {failure}"


def read_policy(path: Path) -> Policy:
    """The policy in a TOML file; a `Problem` where anything in it is not understood."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Problem(f"the policy `{path}` cannot be read: {error.strerror}", status=USAGE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Problem(f"the policy `{path}` is not TOML: {error}", status=USAGE) from None
    try:
        _check_names(table, list(_READERS), "key")
        return Policy(**{key.replace("-", "_"): _READERS[key](key, value) for key, value in table.items()})
    except ValueError as error:
        raise Problem(f"the policy `{path}`: {error}", status=USAGE) from None


# -- one reader a key; each raises ValueError with a sentence -------------------


def _check_names(names: Iterable[str], allowed: Sequence[str], kind: str) -> None:
    for name in names:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(f'`{each}`' for each in allowed)}"
            raise ValueError(f"no such {kind}: `{name}`, {hint}")


def _one_of(allowed: Sequence[str]) -> Callable[[str, object], str]:
    def read(key: str, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"`{key}` takes one of {', '.join(allowed)}, not `{value}`")
        _check_names([value], allowed, f"`{key}`")
        return value

    return read


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"`{key}` takes a number, not `{value}`")
    if not 0 <= value < float("inf"):
        raise ValueError(f"`{key}` is {value}, and must not be below 0")
    return float(value)


def _share(key: str, value: object) -> float:
    share = _number(key, value)
    if share > 1:
        raise ValueError(f"`{key}` takes a share from 0 to 1, such as 0.9, not {share:g}")
    return share


def _probes(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"`{key}` takes a list of probes, not `{value}`")
    _check_names(value, registry.names("probes"), "probe")
    return tuple(dict.fromkeys(value))


def _acceptances(key: str, value: object) -> tuple[Acceptance, ...]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ValueError(f"acceptances are tables of their own, each under `[[{key}]]`")
    return tuple(_acceptance(table) for table in value)


def _acceptance(table: Mapping[str, object]) -> Acceptance:
    keys = ("sha256", "reason", "expires")
    _check_names(table, keys, "key of an acceptance")
    if missing := [key for key in keys if key not in table]:
        raise ValueError(f"an acceptance needs {', '.join(f'`{key}`' for key in missing)}")
    sha256, reason, expires = (table[key] for key in keys)
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256.lower()):
        raise ValueError(f"`sha256` takes 64 hexadecimal digits, not `{sha256}`")
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"`reason` takes a sentence, not `{reason}`")
    if not isinstance(expires, date) or isinstance(expires, datetime):
        raise ValueError(f"`expires` takes a date without quotes, such as 2027-01-31, not `{expires}`")
    return Acceptance(sha256=sha256.lower(), reason=reason.strip(), expires=expires)


_READERS: dict[str, Callable[[str, object], Any]] = {
    "fail-on": _one_of(_FAIL_ON),
    "effort": _one_of(EFFORTS),
    "budget": _number,
    "require": _probes,
    "minimum-clean-accuracy": _share,
    "accept": _acceptances,
}
