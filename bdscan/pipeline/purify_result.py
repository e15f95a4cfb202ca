"""What one purifier came to: figures, checks, the probes' verdict, and how the report tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from bdscan.facts.finding import Judgement, Run, Verdict
from bdscan.verdict.judge import judge

if TYPE_CHECKING:
    from bdscan.method.purifier import Purified
    from bdscan.purify._verify import Accuracy, Check, Reactivation, TriggerOutcome


@dataclass(frozen=True, eq=False, kw_only=True)
class PurifyResult:
    """One method's result, and how it was judged."""

    method: str
    settings: Mapping[str, object]
    treated: Purified
    seconds: float  # of the purification alone
    accuracy: Accuracy
    obeyed: Sequence[TriggerOutcome]
    checks: Sequence[Check]
    woken: Reactivation | None = None
    runs: tuple[Run, ...] = ()  # of the probes, on the cleaned net

    @property
    def judgement(self) -> Judgement:
        """The probes' verdict on the cleaned net; a check that failed makes it suspicious at least."""
        found = judge(self.runs)
        if self.failed and found.verdict < Verdict.SUSPICIOUS:
            return replace(found, verdict=Verdict.SUSPICIOUS, reasons=self.failed)
        return found

    @property
    def failed(self) -> tuple[str, ...]:
        return tuple(check.message for check in self.checks if check.passed is False)

    @property
    def rank(self) -> tuple[int, int, float]:
        """The smaller the better: failed checks, verdict, accuracy lost."""
        return len(self.failed), int(self.judgement.verdict), self.accuracy.before - self.accuracy.after

    @property
    def cured(self) -> bool:
        return self.judgement.verdict is Verdict.CLEAN

    @property
    def settled(self) -> bool:
        """Nothing is left that another method could better: what the self-check misses, it misses in any net that
        answers so much like this one."""
        from bdscan.pipeline import self_check

        probed = tuple(run for run in self.runs if run.probe != self_check.NAME)
        return not self.failed and judge(probed).verdict is Verdict.CLEAN

    def told(self, before: Verdict, tried: Sequence[PurifyResult]) -> dict[str, Any]:
        """The report's `treatment`."""
        return {
            "method": self.method,
            "settings": dict(self.settings),
            "seconds": self.seconds,
            "output": None,
            "sha256": None,
            "notes": list(self.treated.notes),
            "clean_accuracy": {
                "before": self.accuracy.before,
                "after": self.accuracy.after,
                "images": self.accuracy.images,
                "p_value": self.accuracy.p_value,
            },
            "agreement": {"top1": self.accuracy.same, "kl": self.accuracy.divergence},
            "recovered_trigger_success": self._success(),
            "recovered": [asdict(each) for each in self.obeyed],
            "reactivation": self._reactivation(),
            "checks": [asdict(check) for check in self.checks],
            "tried": [outcome.in_short() for outcome in tried],
            "verdict": {"before": before.word, "after": self.judgement.verdict.word},
        }

    def in_short(self) -> dict[str, object]:
        """One line of what `auto` tried."""
        success = self._success()
        return {
            "method": self.method,
            "seconds": self.seconds,
            "clean_accuracy": self.accuracy.after,
            "recovered_trigger_success": success["after"] if success else None,
            "verdict": self.judgement.verdict.word,
            "passed": self.cured,
            "why": "; ".join(self.judgement.reasons[:2]) or "every check passed and no probe objects",
        }

    def _success(self) -> dict[str, float | None] | None:
        """The most obeyed of the recovered triggers."""
        if not self.obeyed:
            return None
        again = [each.reinverted for each in self.obeyed if each.reinverted is not None]
        return {
            "before": max(each.before for each in self.obeyed),
            "after": max(each.after for each in self.obeyed),
            "reinverted": max(again) if again else None,
        }

    def _reactivation(self) -> dict[str, object] | None:
        woken = self.woken
        if woken is None:
            return None
        return {
            "retuned": {"before": woken.before, "after": woken.retuned, "control": woken.retuned_control},
            "pushed": {"stamped": woken.pushed, "clean": woken.pushed_control},
        }
