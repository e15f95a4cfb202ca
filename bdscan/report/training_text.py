"""What a training comes to: what was learned from which data, what stood out in them, and what was done about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

from bdscan.facts.finding import Verdict
from bdscan.report import Report
from bdscan.report.numbers import named, number, plain
from bdscan.report.told import held, share, some

_CLASSES = 3  # named at most: where the isolated images are


@dataclass(frozen=True)
class Told:
    """The report's `training`, fit to print whatever it holds."""

    method: str
    settings: tuple[tuple[str, str], ...]
    data: Mapping[str, object]
    isolation: Mapping[str, object]
    unlearning: Mapping[str, object]
    notes: tuple[str, ...]
    curves: tuple[tuple[str, str, tuple[float, ...]], ...]  # of which part, of which group, epoch by epoch

    @classmethod
    def of(cls, report: Report) -> Told:
        training = report.training or {}
        settings = held(training, "settings")
        isolation = held(training, "isolation")
        return cls(
            method=plain(training.get("method", "not told"), 80),
            settings=tuple((plain(key, 80), plain(value, 80)) for key, value in settings.items()),
            data=held(training, "data"),
            isolation=isolation,
            unlearning=held(training, "unlearning"),
            notes=tuple(plain(note, 500) for note in some(training.get("notes"))),
            curves=(
                *_curves("isolation", held(isolation, "curves")),
                *_curves("training", held(training, "curves")),
            ),
        )


def lines(report: Report) -> list[tuple[str, str]]:
    """What was done, line by line."""
    training, told = report.training, Told.of(report)
    if training is None:
        return []
    seconds = training.get("seconds")
    spent = f", {float(seconds):.0f} s" if isinstance(seconds, Real) else ""
    output, sha256, suspects = (training.get(key) for key in ("output", "sha256", "suspects"))
    found = [
        ("method", f"{told.method}{spent}"),
        ("data", f"{plain(told.data.get('images'), 20)} images from {plain(told.data.get('path'), 300)}"),
        ("augmentation", plain(training.get("augmentation") or "", 200)),
        ("isolated", _isolated(report, told.isolation) if told.isolation else ""),
        ("unlearned", _unlearned(told.unlearning) if told.unlearning else ""),
        ("written to", f"{plain(output, 300)} (sha256 {plain(sha256, 80)})" if output else ""),
        ("suspects", plain(suspects, 300) if suspects else ""),
        *(("note", note) for note in told.notes),
    ]
    return [(label, said) for label, said in found if said]


def _isolated(report: Report, isolation: Mapping[str, object]) -> str:
    return f"{plain(isolation.get('isolated'), 20)} images: {evidence(isolation)}{_places(report, isolation)}"


def evidence(isolation: Mapping[str, object]) -> str:
    """The sentence with its numbers."""
    threshold, p_value = isolation.get("threshold"), isolation.get("p_value")
    said = plain(isolation.get("message") or "", 500)
    return f"{said} (p = {_figure(p_value)} vs threshold {_figure(threshold)})" if isinstance(p_value, Real) else said


def _figure(value: object) -> str:
    return number(float(value)) if isinstance(value, Real) else "-"


def _places(report: Report, isolation: Mapping[str, object]) -> str:
    """In which classes they are."""
    counts = [count for count in some(isolation.get("per_class")) if isinstance(count, Integral)]
    ranked = sorted((-int(count), place) for place, count in enumerate(counts) if int(count) > 0)[:_CLASSES]
    said = ", ".join(f"{-count} in {named(report, place)}" for count, place in ranked)
    return f"; {said}" if said else ""


def _unlearned(unlearning: Mapping[str, object]) -> str:
    obeyed, accuracy = held(unlearning, "obeyed"), held(unlearning, "accuracy")
    if not unlearning.get("rounds"):
        by_mistake = f"{share(unlearning.get('mistaken'))} of others kept back by mistake"
        taken = f"{share(obeyed.get('after'))} of the isolated images are taken for their label, {by_mistake}"
        return f"nothing: {taken}; {plain(unlearning.get('stopped') or '', 300)}"
    return (
        f"isolated images taken for their label: {share(obeyed.get('before'))} -> {share(obeyed.get('after'))}, "
        f"others by mistake: {share(unlearning.get('mistaken'))}, "
        f"others kept back told right: {share(accuracy.get('before'))} -> {share(accuracy.get('after'))}; "
        f"{plain(unlearning.get('stopped') or '', 300)}"
    )


def hint(report: Report) -> str:
    """What to do with the model."""
    training = report.training or {}
    suspects = training.get("suspects")
    if report.verdict is Verdict.CLEAN:
        return _next_clean(Told.of(report), suspects)
    if report.verdict is Verdict.INCONCLUSIVE:
        return "the result could not be told from a backdoored one: bring images you trust with `--clean`"
    if training.get("isolation") is None:
        return "the data may hold a backdoor: train with `--method abl`"
    table = f"`{plain(suspects, 300)}`" if suspects else "`--suspects FILE.csv`"
    return f"do not deploy it: look through the suspects ({table}), take out what is wrong, and train again"


def _next_clean(told: Told, suspects: object) -> str:
    if told.isolation.get("isolated"):
        table = f"`{plain(suspects, 300)}`" if suspects else "`--suspects FILE.csv`"
        return f"look through the isolated images ({table}), and ask where they come from"
    return "this holds for the probes and settings of this report"


def _curves(part: str, held: Mapping[str, object]) -> Iterator[tuple[str, str, tuple[float, ...]]]:
    for name, values in held.items():
        if isinstance(values, Sequence) and not isinstance(values, str):
            yield part, plain(name, 80), tuple(float(value) for value in values if isinstance(value, Real))
