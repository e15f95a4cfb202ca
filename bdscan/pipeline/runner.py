"""Seeds, times, catches and names, so that no method has to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from bdscan.facts.finding import Finding, Run
from bdscan.facts.problem import Problem
from bdscan.method import registry
from bdscan.method.case import Case
from bdscan.method.probe import Probe
from bdscan.pipeline.options import Options


class OutOfTime(Exception):
    """The budget is spent: the probe stops where it is."""


class Runner:
    """Everything that runs, runs here."""

    def __init__(self, options: Options, begun: float) -> None:
        self.options, self.begun = options, begun
        self.stopped = ""  # why no further probe runs
        self.interrupted = False  # ... because the user wants it so

    def probe(self, name: str, probe: Probe, case: Case) -> Case:
        """One probe's turn."""
        return self.run(name, probe.family, registry.settings(probe), probe, case, torch_too=probe.needs != "file")

    def run(
        self,
        name: str,
        family: str,
        settings: Mapping[str, object],
        look: Callable[[Case], Iterator[Finding]],
        case: Case,
        *,
        torch_too: bool = True,
    ) -> Case:
        """The case with one run more, whatever happens."""
        begun, findings, failure = time.monotonic(), list[Finding](), None
        with seeded(self.options.seed, torch_too=torch_too):
            try:
                for finding in look(replace(case, progress=self.progress(name))):
                    findings.append(finding)
            except KeyboardInterrupt:
                failure = self.stopped = "stopped by the user"
                self.interrupted = True
            except OutOfTime:
                failure = self.stopped = f"stopped: the budget of {self.options.budget:g} s is spent"
            except Problem as problem:
                failure = problem.message
            except Exception as error:  # noqa: BLE001 - one probe's bug must not cost the others' findings
                failure = f"our fault: {type(error).__name__}: {error}"
        seconds = time.monotonic() - begun
        run = Run(
            probe=name, family=family, settings=settings, seconds=seconds, findings=tuple(findings), failure=failure
        )
        return replace(case, runs=(*case.runs, run))

    def progress(self, name: str) -> Callable[[int, int, str], None]:
        def progress(done: int, total: int, what: str) -> None:
            self.options.show(name, done, total, what)
            if self.options.budget is not None and time.monotonic() - self.begun > self.options.budget:
                raise OutOfTime

        return progress


@contextmanager
def seeded(seed: int, *, torch_too: bool = True) -> Iterator[None]:
    """While the block lasts, torch draws from this seed; then it goes on where it was."""
    if not torch_too:
        yield
        return
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
