"""Photographs the top of an HTML report for the README: `make picture`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WINDOW = (1000, 1000)  # pixels of the page
WIDTH = 800  # of the picture: what a README shows of it
COLOURS = 128  # a palette: a third of the size, and nobody sees it


def photograph(report: Path, picture: Path) -> None:
    """The first screen of the report, as a small PNG."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("there is no chromium here")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        size = f"--window-size={WINDOW[0]},{WINDOW[1]}"
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size, f"--screenshot={shot}")
        command = [browser, *options, f"--user-data-dir={folder}/profile", report.resolve().as_uri()]
        subprocess.run(command, check=True)  # noqa: S603 - our own words
        image = Image.open(shot).convert("RGB")
    small = image.resize((WIDTH, WIDTH * image.height // image.width), Image.Resampling.LANCZOS)
    small.quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    photograph(Path(sys.argv[1]), Path(sys.argv[2]))
