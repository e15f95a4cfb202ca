"""A progress line on stderr, where there is somebody to see it."""

from __future__ import annotations

import sys
from threading import RLock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressBar:
    """Shows which probe is at what; silent when stderr is not a terminal. `closing` takes it away."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._lock = RLock()  # several models at once report from several threads

    def show(self, probe: str, done: int, total: int, what: str) -> None:
        """Probe, steps done, steps in all, what is being tried."""
        if not sys.stderr.isatty():
            return
        with self._lock:
            progress = self._start()
            assert self._task is not None
            progress.update(self._task, description=f"{probe} {what}", completed=done, total=total)

    def close(self) -> None:
        with self._lock:
            if self._progress is not None:
                self._progress.stop()
                self._progress = self._task = None

    def _start(self) -> Progress:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(30), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task("", total=None)
        return self._progress
