"""The table of suspects is opened in spreadsheets, and its names come from data nobody vouches for."""

from __future__ import annotations

import csv
import io

import torch

from bdscan.images.image_set import ImageSet
from bdscan.write.suspects import table


def test_no_name_is_a_formula_and_every_file_is_still_itself() -> None:
    files = ("=cmd|calc!A0/x.png", "cat/y.png", "@SUM(A1).png")
    images = ImageSet(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 1]), ("=1+1", "cat"), (), files)
    rows = list(csv.DictReader(io.StringIO(table(images, torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3).bool()))))
    assert [row["file"] for row in rows] == ["./=cmd|calc!A0/x.png", "cat/y.png", "./@SUM(A1).png"]
    assert [row["label"] for row in rows] == ["'=1+1", "cat", "cat"]
