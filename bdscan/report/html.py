"""The report as one HTML file that needs nothing else: no network, no script, light and dark, ready to print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bdscan.facts.finding import Finding, Run
from bdscan.report import Report, html_training, html_treatment, numbers, words
from bdscan.report.html_probe import section
from bdscan.report.markup import Allowance, Markup, definitions, join, prose, table, tag

_PICTURES = 1_500_000  # bytes, shared evenly: no probe can crowd out another; the whole file stays below 3 MB
_FINDINGS = 400_000
_COMPARED = 400_000  # of pictures, and a quarter of that of words, in the comparison of before and after
_SHEET = 900_000  # of isolated images
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_READING = (
    (
        "Score",
        "What a probe measured, beside what it is read against. A score without a threshold is evidence to look at: "
        "it moves nothing.",
    ),
    ("p", "How often a clean model would score as high by chance."),
    ("note", "Seen and written down; it does not move the verdict."),
    ("suspect", "Unusual for a clean model."),
    ("backdoor", "Hard to explain without a backdoor."),
    (
        "Channel plots",
        "Each dot is a channel of a layer, in order from left to right. A channel that a small trigger lights up "
        "rises more in l-inf, the highest point of its map, than in l1 or l2.",
    ),
    ("Heat", "Grad-CAM over a grey copy of the image: the lighter, the more the class rests on that place."),
    (
        "Clean",
        "These probes, at these settings and with these images, found no evidence. It proves no absence.",
    ),
)
_READING_TREATED = (
    ("Trigger works", "The share of held-out images, which no purifier saw, that it sends to the target class."),
    ("Re-tuned", "A few images with the recovered trigger and a few clean ones: what only sleeps comes back."),
    ("ASR, RA, DER", "The trigger works; the image is seen as what it is; how much was won at what price, 1 at best."),
)


def render(report: Report) -> str:
    """The whole page."""
    runs = (*report.runs, *report.before)
    drawing = sum(any(map(_draws, run.findings)) for run in runs)
    art, text = _PICTURES // max(1, drawing), _FINDINGS // max(1, len(runs))
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")

    def sections(runs: tuple[Run, ...]) -> Markup:
        return join(section(report, run, Allowance(art), Allowance(text)) for run in runs)

    title = f"bdscan: {report.verdict.word}: {numbers.plain(Path(report.subject.path).name, 80)}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    main = tag(
        "main",
        _banner(report),
        html_treatment.section(report, Allowance(_COMPARED), Allowance(_COMPARED // 4)),
        html_training.section(report, Allowance(_SHEET)),
        _facts(report),
        _reading(report),
        tag("h2", "The treated model, probed again", class_="part") if report.treatment is not None else None,
        sections(report.runs),
        _before(sections(report.before)),
    )
    page = tag("html", head, tag("body", main, _footer(report)), lang="en")
    return f"<!doctype html>\n{page}"


def _draws(finding: Finding) -> bool:
    """Whether there is anything to draw."""
    return any(each is not None for each in (finding.classes, finding.trigger, finding.pictures, finding.norms))


def _banner(report: Report) -> Markup:
    judgement = report.judgement
    target = None
    if judgement.target is not None:
        target = tag("p", "Target: ", prose(numbers.named(report, judgement.target)), class_="target")
    unsaid = judgement.p_value is None or report.treatment is not None  # it is not of the treatment
    p_value = None if unsaid else tag("p", f"p = {numbers.number(judgement.p_value)}", class_="p")
    reasons = join(tag("li", prose(reason)) for reason in words.reasons(report))
    accepted = tag("p", "Accepted ", prose(words.accepted(report)), class_="next") if report.accepted else None
    unchanged = words.unchanged(report)
    in_baseline = tag("p", "Known: ", prose(unchanged), class_="next") if unchanged else None
    failed = words.failures(report)
    unseen = tag("p", "Not everything could look: ", prose("; ".join(failed)), class_="failure") if failed else None
    return tag(
        "header",
        tag("p", _kind(report), class_="eyebrow"),
        tag("h1", report.verdict.word.capitalize()),
        tag("p", prose(words.sentence(report).capitalize()), ".", class_="lead"),
        tag("div", target, p_value, class_="key") if target or p_value else None,
        accepted,
        in_baseline,
        tag("ul", reasons) if reasons else None,
        unseen,
        tag("p", tag("strong", "Next: "), prose(words.hint(report)), class_="next"),
        class_=f"banner {report.verdict.word}",
    )


def _kind(report: Report) -> str:
    if report.training is not None:
        return "bdscan train report"
    return "bdscan report" if report.treatment is None else "bdscan purify report"


def _facts(report: Report) -> Markup:
    subject = report.subject
    total = subject.tensors_total
    loaded = None if total is None else f"{subject.tensors_loaded or 0} of {total} loaded"
    about = (
        ("File", numbers.plain(subject.path)),
        ("SHA-256", tag("code", subject.sha256) if subject.sha256 else None),
        ("Format", prose(subject.format) if subject.format else None),
        ("Architecture", prose(subject.arch) if subject.arch else None),
        ("Classes", None if subject.classes is None else str(subject.classes)),
        ("Input", " x ".join(map(str, subject.input)) if subject.input else None),
        ("Normalisation", prose(subject.normalize) if subject.normalize else None),
        ("Tensors", loaded),
    )
    clean = (
        ("Images", str(report.images) if report.images else "not used" if report.clean else "none given"),
        ("From", numbers.plain(report.clean) if report.clean else None),
        ("Accuracy", numbers.percent(report.clean_accuracy) if report.images else None),
    )
    return tag("div", _card("Subject", about), _card("Clean data", clean), class_="cards")


def _card(title: str, pairs: tuple[tuple[str, str | None], ...]) -> Markup:
    rows = ((key, value or "not known") for key, value in pairs if value or key != "From")
    return tag("section", tag("h2", title), definitions(rows), class_="card")


def _reading(report: Report) -> Markup:
    entries = _READING if report.treatment is None else (*_READING, *_READING_TREATED)
    return tag("section", tag("h2", "How to read this"), definitions(entries), class_="card reading")


def _before(sections: Markup) -> Markup | None:
    title = tag("summary", "What the probes found before the treatment")
    return tag("details", title, sections) if sections else None


def _pairs(items: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for key, value in items.items():
        if isinstance(value, Mapping):
            yield from _pairs({f"{key}.{inner}": each for inner, each in value.items()})
        else:
            yield numbers.plain(key, 80), numbers.plain("-" if value is None else value, 300)


def _footer(report: Report) -> Markup:
    named = [(f"{run.probe}.{key}", value) for run in report.runs for key, value in run.settings.items()]
    if report.treatment is not None:
        named = [*_pairs({"treatment": report.treatment.settings}), *named]
    rows = [(numbers.plain(key, 160), numbers.plain(value, 300)) for key, value in named]
    settings = tag("section", tag("h2", "Every setting"), table(("setting", "value"), rows, "settings"), class_="card")
    made = tag("section", tag("h2", "Made with"), table((), _pairs(report.made_with), "settings"), class_="card")
    subject = "data were" if report.training is not None else "file under suspicion was"
    quiet = f"The {subject} read, never run, and not changed."
    return tag(
        "footer", settings if rows else None, made if report.made_with else None, tag("p", quiet, class_="quiet")
    )
