"""False alarms, measured fairly: each clean net judged by the statistics of all the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bdscan.bench.detect.calibrate import by_statistic, summarise
from bdscan.facts.evidence import ClassScores
from bdscan.facts.finding import Finding, Judgement, Level, Run
from bdscan.verdict.calibration import Height, Spread, moderated
from bdscan.verdict.judge import judge

# Statistics that count only where the classes become various, as those of a clean net do not.
CONDITIONAL = "relabelling."


def judge_by_others(
    nets: Sequence[Mapping[str, list[float]]], families: Mapping[str, str] | None = None
) -> list[Judgement]:
    """The judgement of each net, from its own scores and the other nets' spreads.

    `families` names the family of each statistic's probe, where that is not the part of its name before the dot.
    """
    judgements = []
    for place, net in enumerate(nets):
        summary = summarise(by_statistic([*nets[:place], *nets[place + 1 :]]))
        runs = []
        for name, scores in net.items():
            finding = _finding(name, scores, summary.get(name, {}))
            if finding is not None:
                family = (families or {}).get(name) or name.partition(".")[0]
                runs.append(Run(probe=name, family=family, findings=(finding,)))
        judgements.append(judge(runs))
    return judgements


def _finding(name: str, scores: list[float], clean: Mapping[str, Mapping[str, float]]) -> Finding | None:
    if "spread" in clean:
        p = moderated(np.array(scores), Spread(*(clean["spread"][key] for key in ("sd", "freedom", "heavy"))))
        return Finding(level=Level.NOTE, message=name, classes=ClassScores(scores=np.array(scores), p_values=p))
    if "height" in clean and not name.startswith(CONDITIONAL):
        height = Height(clean["height"]["mean"], clean["height"]["sd"], int(clean["height"]["nets"]))
        return Finding(level=Level.NOTE, message=name, p_value=height.p(scores[0]))
    return None
