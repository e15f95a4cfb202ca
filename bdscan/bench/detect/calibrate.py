"""What clean nets look like, measured: the statistics that `bdscan.verdict.calibration` ships."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

from bdscan.bench.labels import Kind, Labelled
from bdscan.bench.workers.jobs import Result
from bdscan.verdict.calibration import Spread, moderated
from bdscan.verdict.statistics import holm

Measured = dict[str, list[list[float]]]  # statistic -> one list of scores a net: one a class, or one in all
CALIBRATED = ("head", "margin", "noise", "inversion", "families", "pairs")  # their findings carry a statistic
LEAST_SD = 0.1  # of a log: sizes and margins within a tenth of one another are not told apart
LEAST_HEIGHT = 0.3  # of a log, between nets: so far apart lie clean ones that were trained for longer and less long
NO_SPREAD = 1e-6
LEAST_FREEDOM = 8.0
LEAST = 3  # nets without which nothing is said


def gather(
    made: Sequence[Result], labels: Sequence[Labelled]
) -> tuple[list[dict[str, list[float]]], list[dict[str, object]]]:
    """The calibrated statistics of each clean net among the results, and which nets those are."""
    measured: list[dict[str, list[float]]] = []
    nets: list[dict[str, object]] = []
    for label, result in zip(labels, made, strict=True):
        if label.kind is not Kind.CONTROL or result["failure"] is not None:
            continue
        report = result["outcome"]["report"]
        nets.append({"name": label.name, "sha256": report["subject"]["sha256"], "accuracy": report["clean_accuracy"]})
        measured.append(_scores(report["runs"]))
    return measured, nets


def by_statistic(nets: Sequence[Mapping[str, list[float]]]) -> Measured:
    """The same, turned round."""
    measured: Measured = {}
    for net in nets:
        for name, scores in net.items():
            measured.setdefault(name, []).append(scores)
    return measured


def _scores(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """One net's statistics: a score a class, or one in all."""
    found: dict[str, list[float]] = {}
    for finding in (finding for run in runs for finding in run["findings"]):
        if finding.get("statistic") is None:
            continue
        if finding["per_class"] is not None:
            found[finding["statistic"]] = [math.nan if s is None else s for s in finding["per_class"]["scores"]]
        elif finding["score"] is not None:
            found[finding["statistic"]] = [finding["score"]]
    return found


def summarise(measured: Measured) -> dict[str, dict[str, dict[str, float]]]:
    """Each statistic's spread within a net, or its height over nets where a net has but one."""
    summary = {}
    for name, nets in sorted(measured.items()):
        if len(nets) < LEAST:
            continue
        if all(len(net) == 1 for net in nets):
            heights = np.array([net[0] for net in nets])
            sd = max(heights.std(ddof=1), LEAST_HEIGHT)
            summary[name] = {"height": {"mean": heights.mean(), "sd": sd, "nets": len(nets)}}
        else:
            sd, freedom = spread(nets)
            sd = max(sd, LEAST_SD)
            heavy = _heaviness(nets, sd, freedom)
            summary[name] = {"spread": {"sd": sd, "freedom": freedom, "heavy": heavy, "nets": len(nets)}}
    return {name: {kind: _rounded(of) for kind, of in part.items()} for name, part in summary.items()}


def spread(nets: list[list[float]]) -> tuple[float, float]:
    """The prior of the moderated t: Smyth's (2004) moment estimate from the variances of the nets."""
    variances: list[float] = []
    freedoms: list[int] = []
    for net in nets:
        values = np.array(net)[np.isfinite(net)]
        if len(values) > 2 and values.std(ddof=1) > NO_SPREAD:
            variances.append(float(values.var(ddof=1)))
            freedoms.append(len(values) - 1)
    if len(variances) < LEAST:  # on clean nets no class stands out at all
        return LEAST_SD, LEAST_FREEDOM
    half = np.array(freedoms) / 2
    e = np.log(variances) - digamma(half) + np.log(half)
    excess = float(e.var(ddof=1) - polygamma(1, half).mean())
    if excess <= 0:  # the nets differ no more than chance would have them: one variance for all
        return math.sqrt(float(np.mean(variances))), MOST_FREEDOM
    prior = min(2 * inverse_trigamma(excess), MOST_FREEDOM)
    return math.sqrt(math.exp(e.mean() + digamma(prior / 2) - math.log(prior / 2))), prior


def _heaviness(nets: list[list[float]], sd: float, freedom: float) -> float:
    """The least factor on the spread at which the most surprising of n clean nets has p = 1 / (n + 1), over classes."""

    def least(heavy: float) -> float:
        return min(float(holm(moderated(np.array(net), Spread(sd, freedom, heavy))).min()) for net in nets)

    low, high = 1.0, 10.0
    if least(low) >= 1 / (len(nets) + 1):
        return low
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if least(middle) < 1 / (len(nets) + 1) else (low, middle)
    return high


MOST_FREEDOM = 30.0  # a few dozen nets do not vouch for more


def inverse_trigamma(y: float) -> float:
    """Trigamma falls from infinity to zero; beyond the bounds the answer is the nearer one."""
    low, high = 1e-3, 1e6
    within = min(max(y, float(polygamma(1, high))), float(polygamma(1, low)))
    return float(brentq(lambda x: polygamma(1, x) - within, low, high))


def write(path: Path, measured: Measured, nets: list[dict[str, object]]) -> None:
    """The shipped file: the statistics, and which nets they come from; what was not measured again stays."""
    before = json.loads(path.read_text(encoding="utf-8"))["statistics"] if path.is_file() else {}
    statistics = {**before, **summarise(measured)}
    document = {"schema": "bdscan.reference/1", "nets": nets, "statistics": statistics}
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: float(f"{value:.4g}") for key, value in values.items()}
