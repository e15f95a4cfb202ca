"""What one purifier came to: figures, checks and the probes' verdict on the cleaned net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bdscan.facts.finding import Judgement, Run, Verdict
from bdscan.facts.treatment import Accuracy, Check, Reactivation, Treatment, Trial, TriggerOutcome
from bdscan.verdict.judge import judge

if TYPE_CHECKING:
    from bdscan.method.purifier import Purified


NOTHING_TO_TRY = "no trigger was shown before, so none could be seen to be gone"


@dataclass(frozen=True, eq=False, kw_only=True)
class PurifyResult:
    """One method's result, and how it was judged."""

    method: str
    settings: Mapping[str, object]
    purified: Purified
    seconds: float  # of the purification alone
    accuracy: Accuracy
    triggers: tuple[TriggerOutcome, ...]
    checks: tuple[Check, ...]
    reactivation: Reactivation | None = None
    runs: tuple[Run, ...] = ()  # of the probes, on the cleaned net
    precaution: bool = False  # the user wants it done, whether or not there is anything to remove
    self_check: Run | None = None  # the last of them, where the probes were tried on a copy of the cleaned net

    @property
    def judgement(self) -> Judgement:
        """The probes' verdict on the cleaned net; a check that failed makes it suspicious at least.

        Where no trigger had been shown, nothing was seen to go: probes that found none before prove nothing by
        finding none now.
        """
        found = judge(self.runs)
        if self.failed and found.verdict < Verdict.SUSPICIOUS:
            return replace(found, verdict=Verdict.SUSPICIOUS, reasons=self.failed)
        if found.verdict is Verdict.CLEAN and not self.triggers and not self.precaution:
            return replace(found, verdict=Verdict.INCONCLUSIVE, reasons=(NOTHING_TO_TRY,))
        return found

    @property
    def failed(self) -> tuple[str, ...]:
        return tuple(check.message for check in self.checks if check.passed is False)

    @property
    def rank(self) -> tuple[int, int, float]:
        """The smaller the better: failed checks, verdict, accuracy lost."""
        return len(self.failed), int(self.judgement.verdict), self.accuracy.before - self.accuracy.after

    @property
    def verified(self) -> bool:
        return self.judgement.verdict is Verdict.CLEAN

    @property
    def settled(self) -> bool:
        """Nothing is left that another method could better: what the self-check misses, it misses in any net that
        answers so much like this one."""
        probed = tuple(run for run in self.runs if run is not self.self_check)
        return not self.failed and judge(probed).verdict is Verdict.CLEAN

    def treatment(self, before: Verdict, tried: Sequence[PurifyResult]) -> Treatment:
        """As the report tells it, before anything is written."""
        return Treatment(
            method=self.method,
            settings=self.settings,
            seconds=self.seconds,
            accuracy=self.accuracy,
            verdict_before=before,
            verdict_after=self.judgement.verdict,
            triggers=self.triggers,
            reactivation=self.reactivation,
            checks=self.checks,
            tried=tuple(result.trial() for result in tried),
            notes=self.purified.notes,
        )

    def trial(self) -> Trial:
        """One line of what `auto` tried."""
        success = self.treatment(Verdict.INCONCLUSIVE, ()).trigger_success
        return Trial(
            method=self.method,
            seconds=self.seconds,
            clean_accuracy=self.accuracy.after,
            recovered_trigger_success=success.after if success else None,
            verdict=self.judgement.verdict,
            passed=self.verified,
            why="; ".join(self.judgement.reasons[:2]) or "every check passed and no probe objects",
        )
