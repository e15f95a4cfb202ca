"""What a training comes to: what was learned from which data, what stood out in them, and what was done about it."""

from __future__ import annotations

from bdscan.facts.finding import Verdict
from bdscan.facts.training_record import IsolationRecord, UnlearningRecord
from bdscan.report import Report
from bdscan.report.numbers import named, number, percent, plain
from bdscan.report.treatment_text import MAX_LINES

_CLASSES = 3  # named at most: where the isolated images are


def lines(report: Report) -> list[tuple[str, str]]:
    """What was done, line by line."""
    training = report.training
    if training is None:
        return []
    output, sha256, suspects = training.output, training.sha256, training.suspects
    found = [
        ("method", f"{plain(training.method, 80)}, {training.seconds:.0f} s"),
        ("data", f"{training.data.images} images from {plain(training.data.path, 300)}"),
        ("augmentation", plain(training.augmentation, 200)),
        ("isolated", _isolated(report, training.isolation) if training.isolation else ""),
        ("unlearned", _unlearned(training.unlearning) if training.unlearning else ""),
        ("written to", f"{plain(output, 300)} (sha256 {plain(sha256, 80)})" if output else ""),
        ("suspects", plain(suspects, 300) if suspects else ""),
        *(("note", plain(note, 500)) for note in training.notes[:MAX_LINES]),
    ]
    return [(label, line) for label, line in found if line]


def _isolated(report: Report, isolation: IsolationRecord) -> str:
    return f"{isolation.isolated} images: {evidence(isolation)}{_places(report, isolation)}"


def evidence(isolation: IsolationRecord) -> str:
    """The sentence with its numbers."""
    message = plain(isolation.message, 500)
    if isolation.p_value is None:
        return message
    return f"{message} (p = {number(isolation.p_value)} vs threshold {number(isolation.threshold)})"


def _places(report: Report, isolation: IsolationRecord) -> str:
    """In which classes they are."""
    ranked = sorted((-count, place) for place, count in enumerate(isolation.per_class) if count > 0)[:_CLASSES]
    places = ", ".join(f"{-count} in {named(report, place)}" for count, place in ranked)
    return f"; {places}" if places else ""


def _unlearned(unlearning: UnlearningRecord) -> str:
    obeyed, accuracy = unlearning.obeyed, unlearning.accuracy
    mistaken, stopped = percent(unlearning.mistaken), plain(unlearning.stopped, 300)
    if not unlearning.rounds:
        taken = f"{percent(obeyed.after)} of the isolated images are taken for their label"
        return f"nothing: {taken}, {mistaken} of others kept back by mistake; {stopped}"
    return (
        f"isolated images taken for their label: {percent(obeyed.before)} -> {percent(obeyed.after)}, "
        f"others by mistake: {mistaken}, "
        f"others kept back told right: {percent(accuracy.before)} -> {percent(accuracy.after)}; {stopped}"
    )


def hint(report: Report) -> str:
    """What to do with the model."""
    training = report.training
    suspects = training.suspects if training else None
    isolation = training.isolation if training else None
    table = f"`{plain(suspects, 300)}`" if suspects else "`--suspects FILE.csv`"
    if report.verdict is Verdict.CLEAN:
        if isolation is not None and isolation.isolated:
            return f"look through the isolated images ({table}), and ask where they come from"
        return "this holds for the probes and settings of this report"
    if report.verdict is Verdict.INCONCLUSIVE:
        return "the result could not be told from a backdoored one: bring images you trust with `--clean`"
    if isolation is None:
        return "the data may hold a backdoor: train with `--method abl`"
    return f"do not deploy it: look through the suspects ({table}), take out what is wrong, and train again"
