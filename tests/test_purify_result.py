"""What a purification may call itself: clean only where something was seen to go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import planted_net
from findings import compared

from bdscan.facts.finding import Finding, Level, Run, Verdict
from bdscan.facts.treatment import Accuracy, Check, TriggerOutcome
from bdscan.method.purifier import Purified
from bdscan.pipeline.purify_result import PurifyResult

QUIET = Run(
    probe="margin",
    family="margin",
    findings=(Finding(level=Level.NOTE, message="", classes=compared(np.full(10, 0.5))),),
)
GONE = TriggerOutcome(target=3, form="patch", before=1.0, after=0.02, recovers=0.8)


def result(**more: object) -> PurifyResult:
    accuracy = Accuracy(before=0.9, after=0.9, images=100, p_value=1.0, same=1.0, divergence=0.0)
    plain = PurifyResult(
        method="fst",
        settings={},
        purified=Purified(suspect=planted_net.net(backdoored=False)),
        seconds=1.0,
        accuracy=accuracy,
        triggers=(),
        checks=(),
        runs=(QUIET,),
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def test_a_trigger_that_was_seen_to_go_makes_it_clean() -> None:
    assert result(triggers=(GONE,)).judgement.verdict is Verdict.CLEAN


def test_where_nothing_was_shown_nothing_was_seen_to_go() -> None:
    judged = result().judgement
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert "no trigger was shown" in judged.reasons[0]
    assert not result().verified
    assert result().settled, "another method would prove no more"


def test_who_asks_for_the_precaution_gets_it() -> None:
    assert result(precaution=True).judgement.verdict is Verdict.CLEAN
    lost = Check(name="clean accuracy", passed=False, message="it lost too much")
    assert result(precaution=True, checks=(lost,)).judgement.verdict is Verdict.SUSPICIOUS
