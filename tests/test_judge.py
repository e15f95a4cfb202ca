"""More evidence never lowers a verdict, order never matters, failure is never clean."""

# A finding without its evidence fails the test by itself.
# mypy: disable-error-code="arg-type, operator, union-attr"

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from findings import compared
from hypothesis import given, settings
from hypothesis import strategies as st

from bdscan.facts.failure import Failure
from bdscan.facts.finding import Finding, Level, Run, Verdict
from bdscan.verdict.judge import judge, p_of
from docs import rules

CLASSES = 10
BROKE = Failure.ours("KeyError: 1")


def run_of(probe: str, p: list[float], *, shown: int | None = None, failure: Failure | None = None) -> Run:
    """One probe of a family of its own, with a p-value for each class."""
    spread = Finding(level=Level.NOTE, message=f"{probe} spread", classes=compared(np.array(p)))
    demonstrated = (
        ()
        if shown is None
        else (Finding(level=Level.BACKDOOR, message="a trigger works", target=shown, demonstrated=True),)
    )
    return Run(probe=probe, family=probe, findings=(spread, *demonstrated), failure=failure)


def flat(value: float = 0.5, at: int | None = None, p: float = 1e-6) -> list[float]:
    return [p if c == at else value for c in range(CLASSES)]


p_lists = st.lists(st.floats(1e-12, 1.0), min_size=CLASSES, max_size=CLASSES)
runs = st.lists(
    st.builds(
        run_of,
        st.sampled_from(["margin", "noise", "inversion", "linf"]),
        p_lists,
        shown=st.none() | st.integers(0, CLASSES - 1),
        failure=st.none() | st.just(BROKE),
    ),
    min_size=1,
    max_size=5,
)


def test_nothing_found_by_probes_that_ran_is_clean() -> None:
    assert judge([run_of("margin", flat()), run_of("inversion", flat())]).verdict is Verdict.CLEAN


def test_a_file_that_counts_says_what_the_net_in_it_is() -> None:
    odd = Run(probe="artifact", family="file", findings=(Finding(level=Level.SUSPECT, message="an odd file"),))
    assert judge([odd, run_of("margin", flat())]).reasons == (
        "an odd file",
        "the net in the file behaves like a clean one",
    )
    failed = judge([odd, run_of("margin", flat(), failure=BROKE)])
    assert failed.verdict is Verdict.SUSPICIOUS
    assert failed.reasons[-1] == "whether the net in the file has a backdoor could not be told"


def test_no_run_is_never_clean() -> None:
    assert judge([]).verdict is Verdict.INCONCLUSIVE
    assert judge([Run(probe="artifact", family="file")]).verdict is Verdict.INCONCLUSIVE


def test_backdoored_takes_a_shown_trigger_and_two_families() -> None:
    strong = run_of("inversion", flat(at=3), shown=3)
    both = judge([strong, run_of("margin", flat(at=3, p=0.01))])
    assert (both.verdict, both.target) == (Verdict.BACKDOORED, 3)
    assert judge([strong, run_of("margin", flat())]).verdict is Verdict.SUSPICIOUS
    unshown = run_of("inversion", flat(at=3))
    assert judge([unshown, run_of("margin", flat(at=3))]).verdict is Verdict.SUSPICIOUS
    elsewhere = run_of("inversion", flat(at=3), shown=5)
    assert judge([elsewhere, run_of("margin", flat(at=3))]).verdict is Verdict.SUSPICIOUS


def test_families_that_agree_count_for_more_than_the_best_of_them() -> None:
    alone = judge([run_of("margin", flat(at=3, p=0.01))])
    agreed = judge([run_of(name, flat(at=3, p=0.01)) for name in ("head", "margin", "inversion", "pairs")])
    apart = judge([run_of(name, flat(at=c, p=0.01)) for c, name in enumerate(("head", "margin", "inversion", "pairs"))])
    assert alone.verdict is Verdict.CLEAN
    assert (agreed.verdict, agreed.target) == (Verdict.SUSPICIOUS, 3)
    assert agreed.p_value < 1e-3
    assert apart.verdict is Verdict.CLEAN
    assert "head 3.9, inversion 3.9, margin 3.9, pairs 3.9" in agreed.reasons[0]


@pytest.mark.parametrize("silent", [math.nan, 0.5, 1.0])
def test_what_could_not_be_told_takes_nothing_away(silent: float) -> None:
    found = [run_of("margin", flat(at=3, p=1e-4)), run_of("head", flat(at=3, p=0.01))]
    more = judge([*found, run_of("inversion", flat(silent))])
    assert (more.verdict, more.target) == (Verdict.SUSPICIOUS, 3)
    if math.isnan(silent):
        assert more.p_value == judge(found).p_value
    assert judge([run_of("margin", flat(math.nan))]).verdict is Verdict.INCONCLUSIVE


def test_a_shown_trigger_that_nothing_confirms_is_neither_clean_nor_suspicious() -> None:
    shown = judge([run_of("inversion", flat(), shown=3), run_of("margin", flat())])
    assert shown.verdict is Verdict.INCONCLUSIVE
    assert judge([run_of("inversion", flat(at=3, p=2e-3), shown=3)]).verdict is Verdict.SUSPICIOUS


def test_one_family_counted_twice_does_not_agree_with_itself() -> None:
    strong = run_of("inversion", flat(at=3), shown=3)
    assert judge([strong, replace(strong, probe="generator")]).verdict is Verdict.SUSPICIOUS


@pytest.mark.parametrize(("level", "verdict"), [(1, Verdict.SUSPICIOUS), (2, Verdict.BACKDOORED)])
def test_a_dangerous_file_is_found_whatever_its_weights_are(level: int, verdict: Verdict) -> None:
    file = Run(probe="artifact", family="file", findings=(Finding(level=Level(level), message="it would run code"),))
    assert judge([file]).verdict is verdict
    assert judge([file, run_of("margin", flat())]).verdict is verdict
    assert judge([file, Run(probe="load", failure=Failure.refused("unreadable"))]).verdict is verdict


@settings(max_examples=60, deadline=None)
@given(runs)
def test_failure_is_never_clean(found: list[Run]) -> None:
    failed = [replace(found[0], failure=BROKE), *found[1:]]
    assert judge(failed).verdict is not Verdict.CLEAN


@settings(max_examples=60, deadline=None)
@given(runs, st.randoms())
def test_order_never_matters(found: list[Run], random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = judge(found), judge(shuffled)
    assert (first.verdict, first.target) == (second.verdict, second.target)
    assert first.p_value == pytest.approx(second.p_value)


@settings(max_examples=60, deadline=None)
@given(runs, st.integers(0, 4), st.floats(0.0, 1.0))
def test_smaller_p_values_never_lower_the_verdict(found: list[Run], which: int, factor: float) -> None:
    run = found[which % len(found)]
    named = judge(found).target
    kept = run.findings[0].classes.p_values
    lower = np.where(np.arange(CLASSES) == named, kept * factor, kept) if named is not None else kept
    more = replace(run, findings=(replace(run.findings[0], classes=compared(lower)), *run.findings[1:]))
    assert judge([more if r is run else r for r in found]).verdict >= judge(found).verdict


@settings(max_examples=60, deadline=None)
@given(runs, st.integers(0, CLASSES - 1))
def test_a_demonstration_never_lowers_the_verdict(found: list[Run], target: int) -> None:
    shown = Finding(level=Level.BACKDOOR, message="a trigger works", target=target, demonstrated=True)
    more = [replace(found[0], findings=(*found[0].findings, shown)), *found[1:]]
    assert judge(more).verdict >= judge(found).verdict


def test_the_page_shows_every_constant_as_the_code_has_it() -> None:
    text = rules.PAGE.read_text(encoding="utf-8")
    assert rules.page(text) == text, "`make rules` writes the table"


def test_what_is_still_to_come_makes_no_class_more_suspicious() -> None:
    so_far = [run_of("margin", [0.001, 0.4, 0.6, 0.3, 0.7])]
    awaited = [p_of(c, so_far, ["head", "noise"]) for c in range(5)]
    assert all(later >= p_of(c, so_far) for c, later in enumerate(awaited))
    assert awaited[0] > p_of(0, so_far)
