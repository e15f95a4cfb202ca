"""What a treatment came to: what was done to a suspect, what the cleaned net was asked, and what it answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bdscan.facts.finding import Verdict


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question to the cleaned net; `passed` is None where it could not be asked."""

    name: str
    passed: bool | None
    message: str
    score: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """On the same held-out images, before and after."""

    before: float
    after: float
    images: int
    p_value: float  # McNemar's
    same: float  # share of images that both nets answer alike
    divergence: float  # mean KL of the answers


@dataclass(frozen=True, kw_only=True)
class TriggerOutcome:
    """What became of one recovered trigger."""

    target: int
    form: str | None
    before: float
    after: float
    recovers: float  # share of triggered images that the cleaned net sees as what they are
    reinverted: float | None = None  # success of a trigger searched for anew in the cleaned net, at the old size
    control: float | None = None  # the same for the other classes


@dataclass(frozen=True, kw_only=True)
class Reactivation:
    """What re-tuning and a small push bring back, and what they bring without a backdoor to wake."""

    retuned: float
    retuned_control: float  # the same five images, relabelled as another class
    before: float  # the trigger's success in the cleaned net as it is
    pushed: float
    pushed_control: float  # the same push from clean images


@dataclass(frozen=True, kw_only=True)
class Change:
    """One share, before and after."""

    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class UserTriggerOutcome:
    """Measured with the trigger that the user handed over; it moves no verdict."""

    file: str
    target: int | None
    accuracy: Change
    asr: Change  # attack success rate
    ra: Change  # robust accuracy: triggered images seen as what they are
    der: float  # defence effectiveness rating


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One method that `auto` tried."""

    method: str
    seconds: float | None = None
    clean_accuracy: float | None = None
    recovered_trigger_success: float | None = None
    verdict: Verdict | None = None
    passed: bool
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A file that stands on the disk now."""

    path: str
    digest: Mapping[str, str]  # as in `bdscan.report.Input`


@dataclass(frozen=True, kw_only=True)
class TriggerSuccess(Change):
    """Of the most obeyed of the recovered triggers."""

    reinverted: float | None = None  # of a trigger searched afresh on the treated model


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """Everything that `purify` did and measured."""

    method: str
    settings: Mapping[str, object]
    seconds: float
    accuracy: Accuracy
    verdict_before: Verdict
    verdict_after: Verdict
    triggers: tuple[TriggerOutcome, ...] = ()
    reactivation: Reactivation | None = None
    user_trigger: UserTriggerOutcome | None = None
    checks: tuple[Check, ...] = ()
    tried: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()  # what followed from the net and the data, and why
    output: str | None = None
    sha256: str | None = None
    files: tuple[WrittenFile, ...] = ()

    @property
    def trigger_success(self) -> TriggerSuccess | None:
        """None where no trigger was recovered."""
        if not self.triggers:
            return None
        again = [each.reinverted for each in self.triggers if each.reinverted is not None]
        return TriggerSuccess(
            before=max(each.before for each in self.triggers),
            after=max(each.after for each in self.triggers),
            reinverted=max(again) if again else None,
        )

    @property
    def failed_checks(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.passed is False)
