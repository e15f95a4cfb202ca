"""Seeds, times, catches and names, so that no method has to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from bdscan.facts.deadline import OutOfTime, check_time
from bdscan.facts.failure import STOPPED, Failure, FailureKind
from bdscan.facts.finding import Finding, Run
from bdscan.facts.problem import Problem
from bdscan.facts.progress import Progress
from bdscan.method import registry
from bdscan.method.case import Earlier
from bdscan.method.probe import AnyProbe, FileProbe
from bdscan.pipeline.options import Options

CaseOf = TypeVar("CaseOf", bound=Earlier)


class Runner:
    """Everything that runs, runs here."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.stopped: Failure | None = None  # why no further probe runs

    @property
    def interrupted(self) -> bool:
        return self.stopped is not None and self.stopped.kind is FailureKind.STOPPED

    def probe(self, name: str, probe: AnyProbe, case: CaseOf) -> Run:
        """One probe's turn."""
        case = replace(case, progress=self.progress(name))
        torch_too = not isinstance(probe, FileProbe)
        return self.run(name, probe.family, registry.settings(probe), lambda: probe(case), torch_too=torch_too)

    def run(
        self,
        name: str,
        family: str,
        settings: Mapping[str, object],
        look: Callable[[], Iterator[Finding]],
        *,
        torch_too: bool = True,
    ) -> Run:
        """What was found, whatever happens."""
        begun, findings, failure = time.monotonic(), list[Finding](), None
        with seeded(self.options.seed, torch_too=torch_too):
            try:
                for finding in look():
                    findings.append(finding)
            except KeyboardInterrupt:
                failure = self.stopped = STOPPED
            except OutOfTime:
                failure = self.stopped = out_of_time(self.options)
            except Problem as problem:
                failure = Failure.refused(problem.message)
            except Exception as error:  # noqa: BLE001 - one probe's bug must not cost the others' findings
                failure = Failure.crash(error)
        seconds = time.monotonic() - begun
        return Run(
            probe=name, family=family, settings=settings, seconds=seconds, findings=tuple(findings), failure=failure
        )

    def progress(self, name: str) -> Progress:
        def progress(done: int, total: int, what: str) -> None:
            self.options.show(name, done, total, what)
            check_time()

        return progress


def out_of_time(options: Options) -> Failure:
    return Failure(FailureKind.BUDGET, f"stopped: the budget of {options.budget:g} s is spent")


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
