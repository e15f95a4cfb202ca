"""What a code-scanning page says about each kind of result; the ids are a contract and never change."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from bdscan.facts.finding import Verdict
from bdscan.report import Report, treatment_text, words


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One kind of result."""

    id: str
    name: str
    level: str
    severity: str | None  # on GitHub's scale: over 9 critical, from 7 high, from 4 medium; None where it is no threat
    precision: str
    short: str
    full: str
    help: str
    tags: tuple[str, ...] = ()


_READ_ON = "The JSON and HTML reports of the same scan hold every number beside its threshold."

BACKDOORED = Rule(
    id="backdoored-model",
    name="BackdooredModel",
    level="error",
    severity="9.3",
    precision="high",
    short="The model carries a backdoor",
    full="A small trigger in the image makes the model answer what somebody else chose, whatever the image shows.",
    help="Do not deploy this model. Get it from another source, train one on data you trust, or try `bdscan purify`, "
    f"which writes a treated copy and checks it. {_READ_ON}",
    tags=("external/cwe/cwe-506",),  # embedded malicious code
)
DANGEROUS = Rule(
    id="dangerous-file",
    name="DangerousModelFile",
    level="error",
    severity="9.8",
    precision="very-high",
    short="Loading the model file may run code, or load another net",
    full="The file holds instructions that the usual way of opening it would carry out, or its readers see different "
    "contents. bdscan read it without carrying out anything.",
    help="Do not open this file with `torch.load` or `pickle`. Ask its maker for the weights as safetensors.",
    tags=("external/cwe/cwe-502",),  # deserialization of untrusted data
)
SUSPICIOUS = Rule(
    id="suspicious-model",
    name="SuspiciousModel",
    level="warning",
    severity="5.5",
    precision="medium",
    short="The model is unusual for a clean one",
    full="A probe measured what clean models rarely show. It does not prove a backdoor.",
    help=f"Do not deploy it yet. Scan with `--effort thorough` and more clean images. {_READ_ON}",
)
UNPROVEN = Rule(
    id="unproven-treatment",
    name="UnprovenTreatment",
    level="warning",
    severity="7.0",
    precision="high",
    short="The treated model failed a check",
    full="The model was purified, and no probe objects to it, but a check of the treatment failed.",
    help=f"Try another `--method`, or bring more clean images. {_READ_ON}",
)
REFUSED = Rule(
    id="refused-by-policy",
    name="RefusedByPolicy",
    level="error",
    severity="5.0",
    precision="very-high",
    short="The model is below what the policy asks for",
    full="The policy that the scan was given sets a limit, such as the least clean accuracy, that the model misses.",
    help="Bring a better model, or change the policy. The message says which limit it was.",
)
# A warning and not a note: what nobody could judge has not passed the gate.
UNJUDGED = Rule(
    id="unjudged-model",
    name="UnjudgedModel",
    level="warning",
    severity=None,
    precision="very-high",
    short="The model could not be judged",
    full="The file could not be read, or there was too little to judge it by. That is no all-clear.",
    help="Mend what the message names and scan again: most often a file that cannot be read without running code, no "
    "clean images, or images prepared otherwise than the model expects.",
)
RULES = (DANGEROUS, BACKDOORED, UNPROVEN, SUSPICIOUS, REFUSED, UNJUDGED)  # the gravest first

_BY_VERDICT = {
    Verdict.BACKDOORED: BACKDOORED,
    Verdict.SUSPICIOUS: SUSPICIOUS,
    Verdict.INCONCLUSIVE: UNJUDGED,
}


def fingerprint(rule: str, of: str) -> str:
    """What code scanning knows a result by: the rule and the bytes, or the place where nobody could read them.

    An alert that was dismissed comes back when the weights change, and not when the scan is repeated or the file is
    moved (GitHub adds the path by itself).
    """
    whole = hashlib.sha256(f"{rule}\0{of}".encode()).hexdigest()
    return f"{whole[:16]}:1"


def rule(report: Report) -> Rule | None:
    """The one rule that the report breaks, or None."""
    if words.only_the_file(report):
        return DANGEROUS
    if report.refused and report.verdict < Verdict.SUSPICIOUS:
        return REFUSED
    if report.verdict in _BY_VERDICT:
        return _BY_VERDICT[report.verdict]
    if treatment_text.failed(report):
        return UNPROVEN
    return UNJUDGED if report.unmet else None
