"""The table of suspects: every image of a training set, the most suspicious first."""

from __future__ import annotations

import csv
import io

from torch import Tensor

from bdscan.images.image_set import ImageSet

COLUMNS = ("file", "label", "score", "rank", "isolated")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for a formula: nobody vouches for the names


def table(images: ImageSet, score: Tensor, isolated: Tensor) -> str:
    """Every image as a line of CSV, the most suspicious first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    order = score.argsort(stable=True).tolist()
    order.sort(key=lambda place: not bool(isolated[place]))
    for rank, place in enumerate(order, 1):
        label = int(images.labels[place])
        name = images.names[label] if label < len(images.names) else str(label)
        flag = "yes" if bool(isolated[place]) else "no"
        writer.writerow(
            (_no_formula(images.files[place], "./"), _no_formula(name, "'"), f"{float(score[place]):.6g}", rank, flag)
        )
    return out.getvalue()


def _no_formula(name: str, mark: str) -> str:
    return mark + name if name.startswith(FORMULA) else name
