"""What every form of the report says alike: the verdict in words, the numbers, the hint."""

from __future__ import annotations

import shlex

from bdscan.facts.failure import FailureKind
from bdscan.facts.finding import Finding, Level, Run, Verdict
from bdscan.report import Report, training_text, treatment_text
from bdscan.report.numbers import number, percent, plain
from bdscan.verdict.joint import FILE
from bdscan.verdict.judge import judge

_SENTENCES = {
    Verdict.CLEAN: "no evidence of a backdoor found at this sensitivity",
    Verdict.INCONCLUSIVE: "could not tell, which is neither a warning nor an all-clear",
    Verdict.SUSPICIOUS: "something here is unusual for a clean model, but it does not prove a backdoor",
    Verdict.BACKDOORED: "the evidence says that this model carries a backdoor",
}
_DANGEROUS = "this file is dangerous to load: its loader may run code of its own, or get another net than others see"
_MAX_REASONS = 20


def evidence(finding: Finding) -> str:
    """The score beside its threshold, and the p-value: `8.21 vs threshold 3.5, p = 0.0002`."""
    parts = []
    if finding.score is not None:
        against = ", no threshold" if finding.threshold is None else f" vs threshold {number(finding.threshold)}"
        parts.append(f"{number(finding.score)}{against}")
    if finding.p_value is not None:
        parts.append(f"p = {number(finding.p_value)}")
    return ", ".join(parts)


def ranked(run: Run) -> list[Finding]:
    """The gravest first, otherwise as the probe told them."""
    return sorted(run.findings, key=lambda finding: -finding.level)


def sentence(report: Report) -> str:
    """The verdict as a person would say it; never the word `safe`."""
    if report.treatment is not None:
        return treatment_text.sentence(report)
    return _DANGEROUS if only_the_file(report) else _SENTENCES[report.verdict]


def model(report: Report) -> str:
    """Architecture, classes, input, normalisation and tensors in one line."""
    subject = report.subject
    parts = [subject.arch or "architecture not recognised"]
    if subject.classes is not None:
        parts.append(f"{subject.classes} classes")
    if subject.input:
        parts.append("input " + "x".join(map(str, subject.input)))
    if subject.normalize:
        parts.append(f"normalisation {subject.normalize}")
    if subject.tensors_total is not None:
        parts.append(f"{subject.tensors_loaded or 0} of {subject.tensors_total} tensors loaded")
    return plain(", ".join(parts))


def clean_data(report: Report) -> str:
    """The images the scan could use, and how well the model does on them."""
    if not report.images:
        unused = plain(f"{report.clean} was not used") if report.clean else "none given"
        return f"{unused}, so only probes that need no images could look"
    origin = f" from {report.clean}" if report.clean else ""
    return plain(f"{report.images} images{origin}, accuracy {percent(report.clean_accuracy)}")


def reasons(report: Report) -> list[str]:
    """What the verdict rests on, less what `failures` says already."""
    failed = failures(report)
    because = (*report.refused, *report.unmet, *report.judgement.reasons)
    lines = [line for line in map(plain, because) if line not in failed]
    more = len(lines) - _MAX_REASONS
    return lines if more <= 0 else [*lines[:_MAX_REASONS], f"{more} more reasons in the JSON report"]


def accepted(report: Report) -> str:
    """Until when and why a finding passes all the same; empty where it does not."""
    acceptance = report.accepted
    return "" if acceptance is None else plain(f"until {acceptance.expires} because: {acceptance.reason}")


def unchanged(report: Report) -> str:
    """That a finding is not new and passes all the same; empty where it does not."""
    return "it is in the baseline, and no worse than there" if report.baseline == "unchanged" else ""


def failures(report: Report) -> list[str]:
    return [f"{run.probe}: {plain(run.failure.message)}" for run in report.runs if run.failure is not None]


def unread(report: Report) -> bool:
    """Whether something broke that had to work before there could be a judgement."""
    return report.verdict is Verdict.INCONCLUSIVE and bool(failures(report)) and report.subject.classes is None


def hint(report: Report) -> str:
    """What to do next."""
    if report.treatment is not None:
        return treatment_text.hint(report)
    if report.training is not None:
        return training_text.hint(report)
    path = shlex.quote(plain(report.subject.path))
    clean = shlex.quote(plain(report.clean)) if report.clean else "DATA"
    if only_the_file(report):
        return "do not open this file with torch.load or pickle; ask its maker for the weights as safetensors"
    if report.verdict is Verdict.SUSPICIOUS and not net_is_suspicious(report):
        return "ask its maker for the weights alone, as safetensors or `net.state_dict()`, and scan those"
    if report.verdict is Verdict.BACKDOORED:
        return f"do not deploy it: get the model from another source, or {_cure(report, path, clean)}"
    look = f"bdscan inspect {path} --clean {clean} --effort thorough"
    if report.verdict is Verdict.SUSPICIOUS:
        return f"do not deploy it yet; `{look}` looks harder, best with more clean images"
    if report.verdict is Verdict.CLEAN:
        return f"this holds for the probes and settings of this report; `{look}` looks harder"
    return _unsettled(report, look)


def _cure(report: Report, path: str, clean: str) -> str:
    if report.subject.classes is None or not report.images:
        return "train one on data you trust"
    return f"try `bdscan purify {path} --clean {clean} --method auto --output FILE`"


def _unsettled(report: Report, look: str) -> str:
    if any(run.failure is not None and run.failure.kind is FailureKind.CRASH for run in report.runs):
        return "this is a fault in bdscan; please report it with this report attached"
    if report.subject.classes is None:  # no net was built from the file
        return (
            "nothing was judged: mend what failed and scan again"
            if failures(report)
            else f"let all probes look: `{look}`"
        )
    if not report.images:
        return f"give the probes labelled clean images: `{look}`"
    if failures(report):
        return "mend what failed and scan again; what a probe did not see cannot count as clean"
    return f"bring more clean images, or look harder: `{look}`"


def net_is_suspicious(report: Report) -> bool:
    """Whether the verdict would be as grave if the file were in order."""
    return judge(tuple(run for run in report.runs if run.family != FILE)).verdict >= Verdict.SUSPICIOUS


def only_the_file(report: Report) -> bool:
    """Whether all that is grave is about the file and not about the net in it."""
    grave = {run.family for run in report.runs for finding in run.findings if finding.level >= Level.BACKDOOR}
    return report.verdict is Verdict.BACKDOORED and grave == {FILE}
