"""The process behind `--jobs`: reads how to look, then one model's name a line; ends when nobody asks any more."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from bdscan.cli import worker_messages
from bdscan.cli.scan import Scan
from bdscan.facts.problem import Problem


def main() -> None:
    """Does what stdin says."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    asked: SimpleQueue[str] = SimpleQueue()
    Thread(target=_listen, args=(asked,), daemon=True).start()
    scan = worker_messages.scan_of(asked.get())
    while True:
        name, to = json.loads(asked.get())
        _look(scan, name, Path(to))
        answers.write(worker_messages.DONE)
        answers.flush()


def _listen(asked: SimpleQueue[str]) -> None:
    """Also while a model is being looked at: when the asking process has gone, nobody waits for the answer."""
    for line in sys.stdin:
        asked.put(line)
    os._exit(0)


def _look(scan: Scan, name: str, to: Path) -> None:
    spoken = io.StringIO()
    try:
        with redirect_stderr(spoken):
            report = scan.one(name)
    except Problem as problem:
        worker_messages.refuse(to, problem)
    else:
        worker_messages.write(to, report, spoken.getvalue())
