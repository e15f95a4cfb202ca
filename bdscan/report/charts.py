"""Drawings in SVG: a bar for each class, and three norms of every channel side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bdscan.facts.evidence import Array
from bdscan.report import numbers
from bdscan.report.markup import Markup, tag

_BARS = 24  # classes drawn; with more, the highest
_ROW = 22
_NAMES, _FIGURES = 30.0, 18.0  # percent of the width for names on the left and figures on the right
_DOTS = 400  # channels drawn a panel; the outliers are always among them
_LABELLED = 6
_LEAST = 4.0  # deviations that a panel spans at least: noise drawn large would look like outliers
_WIDE, _HIGH, _MARGIN = 250, 156, 24


def bars(scores: Array, name: Callable[[int], str], target: int | None, threshold: float | None) -> Markup:
    """Sizes are in percent and not in a view box, so that the words keep their size on a narrow screen."""
    scores = scores.astype(np.float64).ravel()
    scores[~np.isfinite(scores)] = np.nan  # drawn as nothing, written as a dash
    chosen = _chosen(scores, target)
    drawn = [*np.nan_to_num(scores[chosen]), 0.0, *([] if threshold is None else [threshold])]
    low, span = min(drawn), (max(drawn) - min(drawn)) or 1.0

    def place(value: float) -> float:
        return float(_NAMES + (100 - _NAMES - _FIGURES) * (value - low) / span)

    height = _ROW * len(chosen)
    rows = [_bar(row, int(index), scores[index], name(int(index)), target, place) for row, index in enumerate(chosen)]
    line = [] if threshold is None else _threshold(threshold, place(threshold), height)
    drawing = tag("svg", *rows, *line, class_="bars", width="100%", height=height + (_ROW if line else 0), role="img")
    if len(chosen) == len(scores):
        return tag("figure", drawing, class_="chart")
    note = f"{len(chosen)} of {len(scores)} classes: the target and the most extreme on its side."
    return tag("figure", drawing, tag("figcaption", note), class_="chart")


def _chosen(scores: Array, target: int | None) -> Sequence[int]:
    if len(scores) <= _BARS:
        return range(len(scores))
    low = target is not None and target < len(scores) and scores[target] < np.nanmedian(scores)
    telling = [int(index) for index in np.argsort(scores if low else -scores, kind="stable")[:_BARS]]
    if target is not None and target < len(scores) and target not in telling:
        telling[-1] = target
    return telling


def _bar(row: int, index: int, score: float, name: str, target: int | None, place: Callable[[float], float]) -> Markup:
    middle, (left, right) = _ROW * row + 15, sorted((place(0.0), place(float(np.nan_to_num(score)))))
    kind = "target" if index == target else None
    label = tag("svg", tag("text", name, x=0, y=15), x=0, y=_ROW * row, width=f"{_NAMES - 1:g}%", height=_ROW)
    box = tag("rect", x=f"{left:.2f}%", y=_ROW * row + 4, width=f"{max(right - left, 0.2):.2f}%", height=_ROW - 8, rx=2)
    figure = tag("text", numbers.number(score), x="100%", y=middle, text_anchor="end")
    drawn = box if np.isfinite(score) else None
    return tag("g", tag("title", f"{name}: {numbers.number(score)}"), label, drawn, figure, class_=kind)


def _threshold(threshold: float, place: float, height: int) -> list[Markup]:
    x = f"{place:.2f}%"
    words_at = tag("text", f"threshold {numbers.number(threshold)}", x=x, y=height + 15, text_anchor="middle")
    return [tag("line", x1=x, x2=x, y1=0, y2=height + 3, class_="threshold"), words_at]


def norms(table: Array, channels: Sequence[int]) -> Markup:
    """Each norm's distance from its median in robust deviations: on one scale, so that the panels compare."""
    away = np.stack([_deviations(column) for column in np.nan_to_num(table.astype(np.float64)).T])
    return _panels(away, channels, "Mean norm of each channel, in robust deviations from the median channel.")


def rise(table: Array, channels: Sequence[int]) -> Markup:
    """How far each norm of each channel rises when a trigger is on: standard deviations already."""
    away = np.nan_to_num(table.astype(np.float64)).T
    return _panels(away, channels, "Rise of each channel with the trigger on, in standard deviations.")


def _panels(away: Array, channels: Sequence[int], note: str) -> Markup:
    low, high = float(min(away.min(), -1.0)), float(max(away.max(), _LEAST))
    marked = [channel for channel in channels if 0 <= channel < away.shape[1]]
    names = ("l-inf (highest point)", "l1 (mean size)", "l2 (energy)")
    panels = [_panel(name, row, marked, low, high) for name, row in zip(names, away, strict=False)]
    return tag("figure", tag("div", *panels, class_="panels"), tag("figcaption", note), class_="chart")


def _deviations(values: Array) -> Array:
    offset = values - np.median(values)
    spread = 1.4826 * float(np.median(np.abs(offset))) or float(values.std()) or 1.0  # 1.4826 MAD = one sigma
    return np.asarray(offset / spread)


def _panel(name: str, away: Array, marked: Sequence[int], low: float, high: float) -> Markup:
    def at(channel: int) -> tuple[float, float]:
        across = _MARGIN + (_WIDE - 2 * _MARGIN) * (channel + 0.5) / len(away)
        return across, _HIGH - _MARGIN - (_HIGH - 2 * _MARGIN) * (float(away[channel]) - low) / (high - low)

    zero = _HIGH - _MARGIN - (_HIGH - 2 * _MARGIN) * (0 - low) / (high - low)
    dots = "".join("M{:.1f} {:.1f}h0".format(*at(channel)) for channel in _drawn(away))
    parts = [
        tag("text", name, x=_MARGIN, y=11, class_="name"),
        tag("line", x1=_MARGIN, x2=_WIDE - _MARGIN, y1=f"{zero:.1f}", y2=f"{zero:.1f}", class_="zero"),
        tag("path", d=dots, class_="dots"),
        *(_outlier(channel, *at(channel), label=place < _LABELLED) for place, channel in enumerate(marked)),
        tag("text", f"highest {numbers.number(float(away.max()))}", x=_WIDE - _MARGIN, y=_HIGH - 3, text_anchor="end"),
    ]
    return tag("svg", *parts, viewBox=f"0 0 {_WIDE} {_HIGH}", role="img", class_="norms")


def _drawn(away: Array) -> Iterator[int]:
    """All channels, or an even choice out of their order by height with both ends in it."""
    order = np.argsort(away, kind="stable")
    if len(order) > _DOTS:
        order = order[np.unique(np.linspace(0, len(order) - 1, _DOTS).round().astype(int))]
    yield from (int(channel) for channel in order)


def _outlier(channel: int, x: float, y: float, *, label: bool) -> Markup:
    anchor = "end" if x > _WIDE / 2 else "start"
    beside = tag(
        "text", str(channel), x=f"{x + (-5 if anchor == 'end' else 5):.1f}", y=f"{y + 4:.1f}", text_anchor=anchor
    )
    dot = tag("circle", tag("title", f"channel {channel}"), cx=f"{x:.1f}", cy=f"{y:.1f}", r=3)
    return tag("g", dot, beside if label else None, class_="outlier")
