"""Photographs an HTML report for the README, its verdict and the probe that shows the trigger: `make picture`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PROBE = "families"
WINDOW = (1000, 1100)  # pixels of the page: down to the first images with the trigger
WIDTH = 800  # of the picture: what a README shows of it
COLOURS = 256  # a palette: a third of the size, and nobody sees it


def photograph(report: Path, picture: Path) -> None:
    """The report without the sections that a README has no room for, as a small PNG."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("there is no chromium here")
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        kept = lambda section: section[0] if f"<h2>{PROBE}" in section[0] else ""  # noqa: E731
        page.write_text(re.sub(r"<section.*?</section>", kept, report.read_text(encoding="utf-8"), flags=re.DOTALL))
        size = f"--window-size={WINDOW[0]},{WINDOW[1]}"
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size, f"--screenshot={shot}")
        command = [browser, *options, f"--user-data-dir={folder}/profile", page.as_uri()]
        subprocess.run(command, check=True)  # noqa: S603 - our own words
        image = Image.open(shot).convert("RGB")
    small = image.resize((WIDTH, WIDTH * image.height // image.width), Image.Resampling.LANCZOS)
    small.quantize(COLOURS, Image.Quantize.FASTOCTREE).save(picture, optimize=True)


if __name__ == "__main__":
    photograph(Path(sys.argv[1]), Path(sys.argv[2]))
