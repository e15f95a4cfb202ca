"""The backdoored sample is found, its class named and its sticker shown; its clean twin is not accused."""

from __future__ import annotations

import pytest
from conftest import SAMPLES

from bdscan.facts.evidence import MaskedPattern
from bdscan.facts.finding import Verdict
from bdscan.pipeline import Options, inspect
from bdscan.report import Report

IMAGES = str(SAMPLES / "images")
STICKER = 9  # speed-80


def report(name: str, **options: object) -> Report:
    return inspect(str(SAMPLES / "models" / f"{name}.pt"), Options(clean=IMAGES, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fast() -> dict[str, Report]:
    return {name: report(name, effort="fast") for name in ("backdoored", "clean")}


def test_the_backdoor_is_found_in_a_hurry(fast: dict[str, Report]) -> None:
    assert fast["backdoored"].verdict >= Verdict.SUSPICIOUS
    assert fast["backdoored"].judgement.target == STICKER
    shown = [finding for run in fast["backdoored"].runs for finding in run.findings if finding.demonstrated]
    assert [finding.target for finding in shown] == [STICKER]
    assert shown[0].trigger is not None
    assert isinstance(shown[0].trigger.pixels, MaskedPattern)
    assert shown[0].pictures is not None
    assert shown[0].pictures.stamped is not None


def test_its_clean_twin_is_not_accused(fast: dict[str, Report]) -> None:
    assert fast["clean"].verdict <= Verdict.INCONCLUSIVE
    assert not any(run.failure for run in fast["clean"].runs)


@pytest.mark.slow
def test_at_standard_effort_the_clean_twin_is_clean_because_planted_backdoors_were_seen() -> None:
    told = report("clean")
    sensitivity = next(run for run in told.runs if run.probe == "sensitivity")
    assert any("was seen" in finding.message for finding in sensitivity.findings)
    assert told.verdict is Verdict.CLEAN
    assert report("backdoored").verdict >= Verdict.SUSPICIOUS
