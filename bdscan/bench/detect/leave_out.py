"""False alarms, measured fairly: each clean net judged by the statistics of all the others."""

from __future__ import annotations

import numpy as np

from bdscan.bench.detect.calibrate import by_statistic, summarise
from bdscan.facts.evidence import ClassScores
from bdscan.facts.finding import Finding, Judgement, Level, Run
from bdscan.verdict.calibration import Height, Spread, moderated
from bdscan.verdict.judge import judge

# The family that each statistic's probe belongs to: the part of its name before the dot, but for these.
FAMILIES = {"noise": "margin", "families": "inversion", "relabelling": "inversion"}


def judged(nets: list[dict[str, list[float]]]) -> list[Judgement]:
    """The judgement of each net, from its own scores and the other nets' spreads."""
    found = []
    for place, net in enumerate(nets):
        summary = summarise(by_statistic(nets[:place] + nets[place + 1 :]))
        runs = [run for name, scores in net.items() if (run := _run(name, scores, summary.get(name, {}))) is not None]
        found.append(judge(runs))
    return found


def _run(name: str, scores: list[float], clean: dict[str, dict[str, float]]) -> Run | None:
    probe = name.partition(".")[0]
    family = FAMILIES.get(probe, probe)
    if "spread" in clean:
        p = moderated(
            np.array(scores), Spread(clean["spread"]["sd"], clean["spread"]["freedom"], clean["spread"]["heavy"])
        )
        finding = Finding(level=Level.NOTE, message=name, classes=ClassScores(scores=np.array(scores), p_values=p))
    elif "height" in clean and probe != "relabelling":  # that one counts only where the classes become various
        height = Height(clean["height"]["mean"], clean["height"]["sd"], int(clean["height"]["nets"]))
        finding = Finding(level=Level.NOTE, message=name, p_value=height.p(scores[0]))
    else:
        return None
    return Run(probe=name, family=family, findings=(finding,))
