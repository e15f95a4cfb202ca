"""What clean nets look like, measured: the statistics that `bdscan.verdict.calibration` ships."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

from bdscan.bench.labels import ModelKind, ModelLabel
from bdscan.bench.results import DetectOutcome, JobResult
from bdscan.facts.evidence import Array, ClassScores
from bdscan.facts.finding import Finding, Judgement, Level, Run
from bdscan.method.registry import find, names
from bdscan.verdict.calibration import Height, Spread, moderated
from bdscan.verdict.joint import together
from bdscan.verdict.judge import judge
from bdscan.verdict.statistics import least_of_several

Summary = dict[str, dict[str, dict[str, float]]]  # of each statistic: its `spread` or its `height`
ScoresByStatistic = dict[str, list[list[float]]]  # one list of scores a net: one a class, or one in all
MIN_SD = 0.1  # of a log: sizes and margins within a tenth of one another are not told apart
MIN_HEIGHT_SD = 0.3  # of a log, between nets: so far apart lie clean ones that were trained for longer and less long
NO_SPREAD = 1e-6
FOLDS = 10
MAX_STRETCH = 10.0  # beyond it the families do not look at different things
DEFAULT_FREEDOM = 8.0
MAX_FREEDOM = 30.0  # a few dozen nets do not vouch for more
HEAVY_STEP = 0.01  # to which a tail is told
MIN_NETS = 3  # with fewer nothing is said
# Statistics that count only where the classes become various, as those of a clean net do not.
CONDITIONAL = "relabelling."


@dataclass(frozen=True, kw_only=True)
class CleanNet:
    """A clean net's calibrated statistics, and which net it is."""

    name: str
    sha256: str | None
    accuracy: float | None
    scores: Mapping[str, list[float]]  # of each statistic: one a class, or one in all


def calibrated_families() -> dict[str, str]:
    """The family of each calibrated statistic's probe."""
    probes = (find("probes", name) for name in calibrated_probes())
    return {statistic: probe.family for probe in probes for statistic in probe.statistics}


def calibrated_probes() -> tuple[str, ...]:
    return tuple(name for name in names("probes") if find("probes", name).statistics)


def clean_nets(results: Sequence[JobResult], labels: Sequence[ModelLabel]) -> list[CleanNet]:
    """The clean nets among the results."""
    return [
        CleanNet(name=label.name, sha256=outcome.sha256, accuracy=outcome.accuracy, scores=outcome.statistics)
        for label, result in zip(labels, results, strict=True)
        if label.kind is ModelKind.CONTROL and isinstance(outcome := result.outcome, DetectOutcome)
    ]


def by_statistic(nets: Sequence[Mapping[str, list[float]]]) -> ScoresByStatistic:
    """The scores of all nets, statistic by statistic."""
    turned: ScoresByStatistic = {}
    for net in nets:
        for name, scores in net.items():
            turned.setdefault(name, []).append(scores)
    return turned


def summarise(scores: ScoresByStatistic) -> Summary:
    """Each statistic's spread within a net, or its height over nets where a net has but one."""
    summary = {}
    for name, nets in sorted(scores.items()):
        if len(nets) < MIN_NETS:
            continue
        if all(len(net) == 1 for net in nets):
            heights = np.array([net[0] for net in nets])
            sd = max(heights.std(ddof=1), MIN_HEIGHT_SD)
            summary[name] = {"height": {"mean": heights.mean(), "sd": sd, "nets": len(nets)}}
        else:
            sd, freedom = spread(nets)
            sd = max(sd, MIN_SD)
            heavy = _heaviness(nets, sd, freedom)
            summary[name] = {"spread": {"sd": sd, "freedom": freedom, "heavy": heavy, "nets": len(nets)}}
    return {
        name: {kind: {key: float(f"{value:.4g}") for key, value in figures.items()} for kind, figures in part.items()}
        for name, part in summary.items()
    }


def spread(nets: list[list[float]]) -> tuple[float, float]:
    """The prior of the moderated t: Smyth's (2004) moment estimate from the variances of the nets."""
    variances: list[float] = []
    freedoms: list[int] = []
    for net in nets:
        values = np.array(net)[np.isfinite(net)]
        if len(values) > 2 and values.std(ddof=1) > NO_SPREAD:
            variances.append(float(values.var(ddof=1)))
            freedoms.append(len(values) - 1)
    if len(variances) < MIN_NETS:  # on clean nets no class stands out at all
        return MIN_SD, DEFAULT_FREEDOM
    half = np.array(freedoms) / 2
    e = np.log(variances) - digamma(half) + np.log(half)
    excess = float(e.var(ddof=1) - polygamma(1, half).mean())
    if excess <= 0:  # the nets differ no more than chance would have them: one variance for all
        return math.sqrt(float(np.mean(variances))), MAX_FREEDOM
    prior = min(2 * inverse_trigamma(excess), MAX_FREEDOM)
    return math.sqrt(math.exp(e.mean() + digamma(prior / 2) - math.log(prior / 2))), prior


def _heaviness(nets: list[list[float]], sd: float, freedom: float) -> float:
    """The least factor on the spread at which the most surprising of n clean nets has p = 1 / (n + 1), over classes."""

    def least(heavy: float) -> float:
        return min(least_of_several(moderated(np.array(net), Spread(sd, freedom, heavy))) for net in nets)

    low, high = 1.0, 10.0
    if least(low) >= 1 / (len(nets) + 1):
        return low
    while high - low > HEAVY_STEP:
        middle = (low + high) / 2
        low, high = (middle, high) if least(middle) < 1 / (len(nets) + 1) else (low, middle)
    return high


def inverse_trigamma(y: float) -> float:
    """Trigamma falls from infinity to zero; beyond the bounds the answer is the nearer one."""
    low, high = 1e-3, 1e6
    within = min(max(y, float(polygamma(1, high))), float(polygamma(1, low)))
    return float(brentq(lambda x: polygamma(1, x) - within, low, high))


def stretch(nets: Sequence[Mapping[str, list[float]]], folds: int = FOLDS) -> float:
    """How much further than independent families' the sums over all families go on clean nets: 1 or more.

    With it the mean of -ln p over the nets is 1, as it is where p-values are what they say. Each net is looked at by
    the statistics of nets that it is not among.
    """
    compared = []
    for fold in range(min(folds, len(nets))):
        summary = summarise(by_statistic([net for place, net in enumerate(nets) if place % folds != fold]))
        compared += [_by_family(net, summary) for net in nets[fold::folds]]
    compared = [families for families in compared if together(families, 1.0) is not None]

    def surprise(stretched: float) -> float:
        joints = [together(families, stretched) for families in compared]
        return float(np.mean([-math.log(joint.over_all) for joint in joints if joint is not None])) - 1

    if not compared or surprise(1.0) <= 0:
        return 1.0
    return float(brentq(surprise, 1.0, MAX_STRETCH)) if surprise(MAX_STRETCH) < 0 else MAX_STRETCH


def _by_family(net: Mapping[str, list[float]], summary: Summary) -> dict[str, list[Array]]:
    """The p-values of each family's statistics."""
    families = calibrated_families()
    found: dict[str, list[Array]] = {}
    for name, scores in net.items():
        spread = summary.get(name, {}).get("spread")
        if spread is not None:
            found.setdefault(families.get(name, name), []).append(_moderated(scores, spread))
    return found


def _moderated(scores: list[float], spread: Mapping[str, float]) -> Array:
    return moderated(np.array(scores), Spread(*(spread[key] for key in ("sd", "freedom", "heavy"))))


def write(path: Path, scores: ScoresByStatistic, nets: Sequence[CleanNet]) -> None:
    """The shipped file: the statistics, and which nets they come from; what was not measured again stays."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"statistics": {}}
    statistics = {**earlier["statistics"], **summarise(scores)}
    joint = earlier.get("joint", {})
    if set(scores) >= set(calibrated_families()):  # else some families were not looked at
        joint = {"stretch": float(f"{stretch([net.scores for net in nets]):.4g}"), "nets": len(nets)}
    named = [{"name": net.name, "sha256": net.sha256, "accuracy": net.accuracy} for net in nets]
    document = {"schema": "bdscan.reference/1", "nets": named, "statistics": statistics, "joint": joint}
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def judge_by_others(nets: Sequence[Mapping[str, list[float]]]) -> list[Judgement]:
    """False alarms, measured fairly: each clean net judged by its own scores and the spreads of all the others."""
    families, judgements = calibrated_families(), []
    for place, net in enumerate(nets):
        summary = summarise(by_statistic([*nets[:place], *nets[place + 1 :]]))
        runs = []
        for name, scores in net.items():
            finding = _finding(name, scores, summary.get(name, {}))
            if finding is not None:
                runs.append(Run(probe=name, family=families.get(name, name), findings=(finding,)))
        judgements.append(judge(runs))
    return judgements


def _finding(name: str, scores: list[float], clean: Mapping[str, Mapping[str, float]]) -> Finding | None:
    if "spread" in clean:
        p = _moderated(scores, clean["spread"])
        return Finding(level=Level.NOTE, message=name, classes=ClassScores(scores=np.array(scores), p_values=p))
    if "height" in clean and not name.startswith(CONDITIONAL):
        height = Height(clean["height"]["mean"], clean["height"]["sd"], int(clean["height"]["nets"]))
        return Finding(level=Level.NOTE, message=name, p_value=height.p(scores[0]))
    return None
