"""A treatment and a training as `schema.json` describes them."""

from __future__ import annotations

from dataclasses import asdict

from bdscan.facts.training_record import TrainingRecord
from bdscan.facts.treatment import Reactivation, Treatment

Values = dict[str, object]  # what the serialiser takes apart further


def treatment(done: Treatment) -> Values:
    """What `purify` did and measured."""
    accuracy, success = done.accuracy, done.trigger_success
    user = {} if done.user_trigger is None else {"known_trigger": asdict(done.user_trigger)}
    return {
        "method": done.method,
        "settings": done.settings,
        "seconds": done.seconds,
        "output": done.output,
        "sha256": done.sha256,
        "notes": done.notes,
        "clean_accuracy": {
            "before": accuracy.before,
            "after": accuracy.after,
            "images": accuracy.images,
            "p_value": accuracy.p_value,
        },
        "agreement": {"top1": accuracy.same, "kl": accuracy.divergence},
        "recovered_trigger_success": success and asdict(success),
        "recovered": [asdict(each) for each in done.triggers],
        "reactivation": done.reactivation and _reactivation(done.reactivation),
        "checks": [asdict(check) for check in done.checks],
        "tried": [
            {
                "method": trial.method,
                "seconds": trial.seconds,
                "clean_accuracy": trial.clean_accuracy,
                "recovered_trigger_success": trial.recovered_trigger_success,
                "verdict": trial.verdict,
                "passed": trial.passed,
                "why": trial.why,
            }
            for trial in done.tried
        ],
        "verdict": {"before": done.verdict_before, "after": done.verdict_after},
        **user,
        "files": [{"path": file.path, "digest": file.digest} for file in done.files],
    }


def _reactivation(woken: Reactivation) -> Values:
    return {
        "retuned": {"before": woken.before, "after": woken.retuned, "control": woken.retuned_control},
        "pushed": {"stamped": woken.pushed, "clean": woken.pushed_control},
    }


def training(done: TrainingRecord) -> Values:
    """What `train` did and measured."""
    isolation, unlearning = done.isolation, done.unlearning
    return {
        "method": done.method,
        "settings": done.settings,
        "seconds": done.seconds,
        "data": asdict(done.data),
        "kept_back": done.kept_back,
        "augmentation": done.augmentation,
        "notes": done.notes,
        "curves": done.curves,
        "isolation": isolation and asdict(isolation),
        "unlearning": unlearning and asdict(unlearning),
        "output": done.output,
        "sha256": done.sha256,
        "suspects": done.suspects,
    }
