"""The HTML report in a real browser: no complaint, no request, every picture drawn."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from test_report import backdoored, swollen, unread

from bdscan.report import Report, html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
)

# What a script sees of the page once it is loaded, written where `--dump-dom` finds it.
WATCH = """<script>addEventListener("load", () => {
  const pictures = [...document.images];
  document.documentElement.dataset.pictures = pictures.length;
  document.documentElement.dataset.broken = pictures.filter(picture => picture.naturalWidth === 0).length;
  document.documentElement.dataset.overflow = document.documentElement.scrollWidth - innerWidth;
  document.documentElement.dataset.requests =
    performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length;
})</script></body>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


def browse(page: str, folder: Path, *options: str) -> tuple[str, str]:
    """The document as the browser holds it, and the lines of its console."""
    assert CHROMIUM is not None
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    closed = "--host-resolver-rules=MAP * ~NOTFOUND"
    command = [CHROMIUM, *QUIET, closed, f"--user-data-dir={folder / 'profile'}", *options, "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def watched(report: Report) -> str:
    """A copy of the page that may run the one script above, and still may not reach for anything."""
    source = html.render(report)
    assert source.count("default-src") == source.count("</body>") == 1
    permitted = source.replace("default-src", "script-src &#x27;unsafe-inline&#x27;; default-src")
    return permitted.replace("</body>", WATCH)


def seen(document: str, what: str) -> int:
    found = re.search(rf'data-{what}="(-?\d+)"', document)
    assert found, f"the page never finished loading: no {what}"
    return int(found[1])


@pytest.mark.parametrize("make", [backdoored, unread], ids=lambda make: make.__name__)
def test_the_page_as_shipped_raises_no_complaint(make: Callable[[], Report], tmp_path: Path) -> None:
    document, console = browse(html.render(make()), tmp_path)
    assert "How to read this" in document
    assert console == ""


@pytest.mark.parametrize("make", [backdoored, swollen], ids=lambda make: make.__name__)
@pytest.mark.parametrize("width", [1200, 500])
def test_pictures_decode_and_nothing_is_fetched(make: Callable[[], Report], width: int, tmp_path: Path) -> None:
    document, console = browse(watched(make()), tmp_path, f"--window-size={width},900")
    assert console == ""
    assert seen(document, "pictures") >= 12
    assert seen(document, "broken") == 0
    assert seen(document, "requests") == 0
    assert seen(document, "overflow") <= 0, "the page scrolls sideways"


def test_a_request_would_have_been_noticed(tmp_path: Path) -> None:
    page = html.render(unread()).replace("</body>", '<img src="https://evil.test/x.png"></body>')
    assert "Content Security Policy" in browse(page, tmp_path)[1]
