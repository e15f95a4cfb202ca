"""How far a stage is, and how long it will take."""

from __future__ import annotations

import time

from bdscan.pipeline.options import Show


class Clock:
    """Tells a progress line what a trainer tells it."""

    def __init__(self, name: str, show: Show) -> None:
        self.name, self.show = name, show
        self.stage, self.begun, self.first = "", 0.0, 0

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if what != self.stage:  # a resumed stage does not begin at its first step
            self.stage, self.begun, self.first = what, now, done
        pace = (now - self.begun) / max(1, done - self.first)
        left = round(pace * (total - done))
        self.show(self.name, done, total, f"{what}, {left // 60}:{left % 60:02d} left" if done > self.first else what)
