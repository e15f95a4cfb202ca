"""A training's part of the page: what was done, the isolated images side by side, and how both groups were learned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from bdscan.facts.evidence import Array
from bdscan.facts.training_record import Curves, IsolationRecord
from bdscan.report import Report, numbers, pictures, training_text
from bdscan.report.markup import Allowance, Markup, definitions, join, prose, tag

_WIDE, _HIGH, _LEFT, _FOOT = 460, 190, 38, 24
_COLOURS = ("var(--red)", "var(--accent)", "var(--soft)")
_DASHES = (None, "5 3", "1 3")  # so that print and the colour-blind tell them apart


def section(report: Report, art: Allowance) -> Markup | None:
    """Nothing, where nothing was trained."""
    training = report.training
    if training is None:
        return None
    return tag(
        "section",
        tag("h2", "The training"),
        definitions((label, prose(line)) for label, line in training_text.lines(report)),
        *_sheets(report, training.isolation, art),
        tag("p", "More pictures were left out to keep this file small.", class_="quiet") if art.refused else None,
        _drawn(
            "Mean loss in each epoch while the data were watched",
            _drawable(training.isolation.curves if training.isolation else {}),
        ),
        _drawn("Mean loss in each epoch of the training", _drawable(training.curves)),
        class_="card training",
    )


def _drawable(curves: Curves) -> Sequence[tuple[str, tuple[float, ...]]]:
    return [(numbers.plain(name, 80), values) for name, values in curves.items() if values]


def _sheets(report: Report, isolation: IsolationRecord | None, art: Allowance) -> Iterator[Markup | None]:
    sheet = report.sheet
    if sheet is None or isolation is None:
        return
    target = isolation.target
    where = f", which cluster in {numbers.named(report, target)}" if target is not None else ""
    title = f"The first of {isolation.isolated} isolated images{where}"
    yield _sheet(report, sheet.isolated, sheet.labels, title, art)
    yield _sheet(report, sheet.others, None, "Other images of that class, to compare with", art)


def _sheet(report: Report, images: Array, labels: Array | None, title: str, art: Allowance) -> Markup | None:
    """A contact sheet: small, in rows, each under its label where labels came with them."""
    if not len(images):
        return None
    figures = [art.admit(pictures.small(image, _label(report, labels, place))) for place, image in enumerate(images)]
    sheet = tag("div", *(each for each in figures if each), class_="sheet")
    return join((tag("h3", prose(title)), sheet))


def _label(report: Report, labels: Array | None, place: int) -> str:
    if labels is None:
        return ""
    number = int(labels[place])
    names = report.subject.names
    return numbers.plain(names[number], 20) if number < len(names) else str(number)


def _drawn(title: str, curves: Sequence[tuple[str, tuple[float, ...]]]) -> Markup | None:
    """One line a group, its name beside it."""
    if not curves:
        return None
    highest = max((value for _, values in curves for value in values if math.isfinite(value)), default=0.0) or 1.0
    epochs = max(len(values) for _, values in curves)
    drawing = tag(
        "svg",
        *_axes(highest, epochs),
        *(_line(place, values, highest, epochs) for place, (_, values) in enumerate(curves)),
        viewBox=f"0 0 {_WIDE} {_HIGH}",
        role="img",
        class_="curves",
    )
    key = join(
        tag("span", tag("b", "— ", style=f"color: {_COLOURS[place % 3]}"), f"{name}: {_ends(values)}", class_="quiet")
        for place, (name, values) in enumerate(curves)
    )
    return tag("figure", tag("h3", title), drawing, tag("figcaption", key), class_="chart")


def _ends(values: tuple[float, ...]) -> str:
    return f"{numbers.number(values[0])} at first, {numbers.number(values[-1])} at last "


def _axes(highest: float, epochs: int) -> Iterator[Markup]:
    foot = _HIGH - _FOOT
    yield tag("line", x1=_LEFT, x2=_WIDE, y1=foot, y2=foot, class_="zero")
    yield tag("text", numbers.number(highest), x=_LEFT - 4, y=14, text_anchor="end")
    yield tag("text", "0", x=_LEFT - 4, y=foot, text_anchor="end")
    yield tag("text", "epoch 1", x=_LEFT, y=_HIGH - 8)
    yield tag("text", str(epochs), x=_WIDE - 4, y=_HIGH - 8, text_anchor="end")


def _line(place: int, values: tuple[float, ...], highest: float, epochs: int) -> Markup:
    def at(epoch: int, value: float) -> str:
        x = _LEFT + (_WIDE - _LEFT - 8) * (epoch / max(1, epochs - 1))
        return f"{x:.1f},{10 + (_HIGH - _FOOT - 10) * (1 - value / highest):.1f}"

    points = " ".join(at(epoch, value) for epoch, value in enumerate(values) if math.isfinite(value))
    colour, dash = _COLOURS[place % 3], _DASHES[place % 3]
    return tag("polyline", points=points, fill="none", stroke=colour, stroke_width=2, stroke_dasharray=dash)
