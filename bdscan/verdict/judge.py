"""Runs in, verdict out: one pure function.

What counts as what:

    clean         every probe of the effort ran to its end, no trigger was shown and, over all probes and classes,
                  p > 0.05
    inconclusive  something could not be told: a failure, a doubt, no images, probes that were left out, a trigger that
                  nothing else confirms, or 0.01 < p <= 0.05
    suspicious    p <= 0.01, or a trigger shown for the class with p <= 0.05; or a file that imports unknown code
    backdoored    p <= 0.001, a trigger shown on held-out images for that very class, and a second family of probes
                  that points to it too; or a file that would run code when it is unpickled
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bdscan.facts.finding import Finding, Judgement, Level, Run, Verdict
from bdscan.verdict.joint import FILE, Joint, of_runs
from bdscan.verdict.rules import AGREEING, AGREEMENT_P, ALERT_P, DOUBT_P, PROOF_P

_APART = {  # what is said of the net where its file is what counts
    Verdict.CLEAN: "the net in the file behaves like a clean one",
    Verdict.INCONCLUSIVE: "whether the net in the file has a backdoor could not be told",
    Verdict.SUSPICIOUS: "the net in the file is suspicious too",
}


def judge(runs: Sequence[Run]) -> Judgement:
    """The gravest of what the file, the behaviour and the failures say."""
    behaviour = _behaviour(runs)
    parts = (_file(runs), _of_behaviour(behaviour), _of_failures(runs, behaviour))
    verdict = max(part[0] for part in parts)
    gravest = [part for part in parts if part[0] is verdict]
    target = next((part[1] for part in gravest if part[1] is not None), None)
    reasons = [reason for part in gravest for reason in part[2]]
    of_net = max(part[0] for part in parts[1:])
    if verdict > Verdict.INCONCLUSIVE and of_net < verdict:  # the file alone says so
        reasons.append(_APART[of_net])
    if verdict is Verdict.CLEAN:
        reasons += _alone(runs, behaviour)
    return Judgement(verdict=verdict, p_value=behaviour.p, target=target, reasons=tuple(reasons))


def p_of(target: int, runs: Sequence[Run], to_come: Iterable[str] = ()) -> float:
    """One class's p over all probes and classes, families to come counted as silent; 1 where no probe gives one."""
    joint = of_runs(runs, to_come)
    p = 1.0 if joint is None else float(joint.adjusted[target])
    return 1.0 if math.isnan(p) else p


_Part = tuple[Verdict, int | None, list[str]]


@dataclass(frozen=True)
class _Behaviour:
    """All calibrated evidence about the net itself, put together."""

    p: float | None  # over all probes and classes
    target: int | None
    joint: Joint | None
    demonstrated: tuple[Finding, ...]  # triggers shown to work on held-out images

    @property
    def families(self) -> tuple[str, ...]:
        """Those that point to the target by themselves."""
        if self.joint is None or self.target is None:
            return ()
        return self.joint.pointing(self.target, AGREEMENT_P)


def _file(runs: Sequence[Run]) -> _Part:
    findings = [f for run in runs if run.family == FILE for f in run.findings if f.level > Level.NOTE]
    if not findings:
        return Verdict.CLEAN, None, []
    gravest = max(f.level for f in findings)
    verdict = Verdict.BACKDOORED if gravest is Level.BACKDOOR else Verdict.SUSPICIOUS
    return verdict, None, [f.message for f in findings if f.level is gravest]


def _behaviour(runs: Sequence[Run]) -> _Behaviour:
    joint = of_runs(runs)
    shown = tuple(sorted(_demonstrated(runs), key=lambda f: (f.target is None, f.target or 0, f.message)))
    whole = [f.p_value for run in runs for f in run.findings if f.p_value is not None and _of_whole_net(f)]
    if joint is None:
        return _Behaviour(_least(whole), None, None, shown)
    p = _least([joint.over_all, *whole])
    if whole and min(whole) < joint.over_all:  # all classes alike: none is to be named before the others
        return _Behaviour(p, None, joint, shown)
    return _Behaviour(p, _named(joint, shown), joint, shown)


def _demonstrated(runs: Sequence[Run]) -> list[Finding]:
    return [f for run in runs if run.family != FILE for f in run.findings if f.demonstrated]


def _named(joint: Joint, shown: tuple[Finding, ...]) -> int:
    """The class with the least p; where several are equally certain, the one a trigger was shown for."""
    adjusted = joint.adjusted
    certain = [f.target for f in shown if f.target is not None and adjusted[f.target] <= PROOF_P]
    return min(certain, key=lambda c: adjusted[c]) if certain else joint.target


def _of_whole_net(finding: Finding) -> bool:
    """Evidence about all classes at once, such as a relabelling, has a p-value but none for each class."""
    compared = finding.classes is not None and finding.classes.p_values is not None
    return not compared and finding.target is None


def _least(p: Sequence[float]) -> float | None:
    """Bonferroni: the smallest, for as many as there are."""
    return min(1.0, min(p) * len(p)) if p else None


def _of_behaviour(behaviour: _Behaviour) -> _Part:
    p, target = behaviour.p, behaviour.target
    shown_here = [f.message for f in behaviour.demonstrated if f.target == target]
    shown = shown_here or [f.message for f in behaviour.demonstrated]
    if p is None or (p > DOUBT_P and not shown):
        return Verdict.CLEAN, None, []
    if p <= PROOF_P and shown_here and (target is None or len(behaviour.families) >= AGREEING):
        return Verdict.BACKDOORED, target, [*shown, _why(behaviour)]
    if p <= (DOUBT_P if shown_here else ALERT_P):
        return Verdict.SUSPICIOUS, target, [*shown, _why(behaviour)]
    if p <= DOUBT_P:
        unsure = f"p = {p:.2g} lies between {ALERT_P:g} and {DOUBT_P:g}: neither clean nor suspicious"
        return Verdict.INCONCLUSIVE, None, [*shown, unsure]
    return Verdict.INCONCLUSIVE, None, [*shown, f"but all kinds of probe together say p = {p:.2g}"]


def _why(behaviour: _Behaviour) -> str:
    if behaviour.target is None or behaviour.joint is None:
        return f"all classes differ from those of clean nets, as after an all-to-all backdoor (p = {behaviour.p:.2g})"
    return (
        f"against it, more than clean nets have against any of their classes (p = {behaviour.p:.2g}): "
        f"{behaviour.joint.told(behaviour.target)}"
    )


def _alone(runs: Sequence[Run], behaviour: _Behaviour) -> list[str]:
    """What stands out by itself on a clean net: one of many comparisons does now and then."""
    found = [f"`{run.probe}`" for run in runs for f in run.findings if f.level > Level.NOTE]
    if not found:
        return []
    names = ", ".join(dict.fromkeys(found))
    return [f"what stands out in {names} is not borne out by the other kinds of probe: p = {behaviour.p:.2g} over all"]


def _of_failures(runs: Sequence[Run], behaviour: _Behaviour) -> _Part:
    failures = [f"{run.probe}: {run.failure}" for run in runs if run.failure]
    if not failures and behaviour.p is None:
        failures = ["no probe looked at how the net behaves"]
    return (Verdict.INCONCLUSIVE, None, failures) if failures else (Verdict.CLEAN, None, [])
