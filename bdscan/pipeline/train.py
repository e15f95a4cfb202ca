"""The third verb: read, train, isolate, unlearn, inspect, write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from bdscan import __version__
from bdscan.facts.deadline import within
from bdscan.facts.problem import USAGE, Problem
from bdscan.method import registry
from bdscan.pipeline.options import TrainOptions
from bdscan.pipeline.preflight import doubts_about, preflight
from bdscan.pipeline.probing import Probes, left_out, look, net_case, of_net, select
from bdscan.pipeline.runner import Runner, seeded
from bdscan.pipeline.subject import made_with, subject_of_net
from bdscan.report import Report
from bdscan.verdict.judge import judge

if TYPE_CHECKING:
    from bdscan.load.assembly.loaded import Loaded
    from bdscan.method.trainer import Trainer, TrainResult
    from bdscan.net.checkpoint import TrainingCheckpoint
    from bdscan.net.classifier import Classifier
    from bdscan.pipeline.training_data import TrainingData
    from bdscan.write.cleaned import Written

UNFINISHED = ".unfinished"  # behind the output's name: where the training is kept until it is over


def train(data: str, options: TrainOptions) -> Report:
    """Train a new net on data nobody vouches for, look at the result as `inspect` does, and write it."""
    from bdscan.pipeline.train_report import record, sheet
    from bdscan.pipeline.training_data import gather
    from bdscan.write.targets import check_new

    begun = time.monotonic()
    trainer, probes = _chosen(options)
    training_data = gather(data, options, check=lambda net: check_new(net, options.output))
    checkpoint = _checkpoint(training_data, trainer, options)
    with _stoppable(checkpoint):
        model, trained = _trained(trainer, training_data, checkpoint, options)
        spent = time.monotonic() - begun
        loaded = _loaded(model, trained, training_data)
        report = _checked(loaded, training_data.spec, probes, options)
        report = replace(
            report,
            training=record(data, training_data, trainer, trained, spent, options),
            sheet=sheet(training_data.images, trained),
            made_with=made_with(options, loaded, time.monotonic() - begun),
        )
        report = _written(report, model, trained, training_data, options)
    checkpoint.remove()
    return report


def _chosen(options: TrainOptions) -> tuple[Trainer, Probes]:
    """The method and the probes, so that wrong names are told before anything is read."""
    trainers, known = registry.names("train"), [*registry.names("train"), *registry.names("probes")]
    for name in options.settings:
        registry.check_name(name, known)
    settings = options.settings.get(options.method, {})
    trainer: Trainer = registry.configure("train", options.method, settings, options.preset)
    if options.suspects is not None and not trainer.looks:
        raise Problem(f"`{options.method}` looks for no suspects", hint="--method abl does", status=USAGE)
    rest = {name: given for name, given in options.settings.items() if name not in trainers}
    return trainer, of_net(select(replace(options, settings=rest)))


def _checkpoint(training_data: TrainingData, trainer: Trainer, options: TrainOptions) -> TrainingCheckpoint:
    """Where the training is kept, and what it must not be mixed up with."""
    from bdscan.net.checkpoint import TrainingCheckpoint

    key = {
        "method": options.method,
        "settings": registry.settings(trainer),
        "architecture": options.arch,
        "data": training_data.images.digest(),
        "input": training_data.shape,
        "normalisation": training_data.norm.name,
        "augmentation": training_data.augmentation,
        "device": training_data.device.type,
        "seed": options.seed,
        "version of bdscan": __version__,
    }
    place = options.output.with_name(options.output.name + UNFINISHED)
    checkpoint = TrainingCheckpoint(place, key)
    if options.resume:
        checkpoint.resume()
    elif place.exists():
        message = f"`{place}` holds a training that was not finished"
        raise Problem(message, hint="go on with it by `--resume`, or delete it to start anew", status=USAGE)
    return checkpoint


@contextmanager
def _stoppable(checkpoint: TrainingCheckpoint) -> Iterator[None]:
    """Ctrl-C (or a pipeline's cancelling) ends the step in hand and keeps what there is; a second one ends at once."""
    import signal
    import threading

    from bdscan.net.checkpoint import stopped

    def ask(number: int, frame: object) -> None:
        if checkpoint.asked or not checkpoint.busy:
            raise KeyboardInterrupt
        checkpoint.asked = True

    here = threading.current_thread() is threading.main_thread()
    usual = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)} if here else {}
    try:
        yield
    except KeyboardInterrupt:
        raise stopped(checkpoint.path) from None
    finally:
        for each, handler in usual.items():
            signal.signal(each, handler)


def _trained(
    trainer: Trainer, training_data: TrainingData, checkpoint: TrainingCheckpoint, options: TrainOptions
) -> tuple[Classifier, TrainResult]:
    from bdscan.method.trainer import TrainCase
    from bdscan.net.classifier import Classifier
    from bdscan.pipeline.clock import Clock

    case = TrainCase(
        fresh=training_data.fresh,
        data=training_data.images,
        classes=training_data.classes,
        augment=training_data.augment,
        seed=options.seed,
        progress=Clock(options.method, options.show),
        checkpoint=checkpoint,
    )
    with seeded(options.seed), _repeatable():
        net, trained = trainer(case)
    return Classifier(net, training_data.shape, training_data.classes, training_data.names), trained


@contextmanager
def _repeatable() -> Iterator[None]:
    """A GPU's convolutions add up in the same order each time; a CPU's do anyway."""
    import torch

    usual = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = usual


def _loaded(model: Classifier, trained: TrainResult, training_data: TrainingData) -> Loaded:
    """The result, beside images that somebody vouches for, or those kept back."""
    from bdscan.load.assembly.loaded import Loaded
    from bdscan.net.training_plan import accuracy

    kept = replace(training_data.images.take(trained.kept), doubts=())  # those of reading are in the report already
    clean = kept if training_data.vouched is None else training_data.vouched
    tensors = len(model.net.net.state_dict())
    return Loaded(
        suspect=model,
        clean=clean,
        format="safetensors",
        arch=training_data.arch,
        normalize=training_data.norm.name,
        tensors_loaded=tensors,
        tensors_total=tensors,
        clean_accuracy=accuracy(model, clean),
    )


def _checked(loaded: Loaded, data: str, probes: Probes, options: TrainOptions) -> Report:
    """What `inspect` would say of the result."""
    from bdscan.pipeline.self_check import checked

    assert loaded.clean is not None
    case = net_case(loaded.suspect, loaded.clean, (preflight(loaded, doubts_about(loaded)),), options)
    runner = Runner(options)
    with within(options.budget, time.monotonic()):
        runs = (*checked(replace(case, runs=look(probes, case, runner)), runner), *left_out(options))
    return Report(
        subject=subject_of_net(str(options.output), loaded),
        judgement=judge(runs),
        runs=runs,
        clean_accuracy=loaded.clean_accuracy,
        images=len(loaded.clean),
        clean=options.clean or f"{data}, kept back",
    )


def _written(
    report: Report, model: Classifier, trained: TrainResult, training_data: TrainingData, options: TrainOptions
) -> Report:
    from bdscan.write.card import new_card
    from bdscan.write.new_model import TextFile, write_new
    from bdscan.write.suspects import table

    def settled(sha256: str) -> Report:
        assert report.training is not None
        suspects = str(options.suspects) if options.suspects else None
        training = replace(report.training, output=str(options.output), sha256=sha256, suspects=suspects)
        return replace(report, subject=replace(report.subject, sha256=sha256), training=training)

    found, beside = trained.isolation, tuple[TextFile, ...]()
    if options.suspects is not None and found is not None:
        beside = (TextFile(path=options.suspects, text=table(training_data.images, found.score, found.isolated)),)
    noted = {"bdscan.trained_by": options.method, "bdscan.data": training_data.images.digest()}
    done: Written = write_new(
        model, options.output, noted=noted, card=lambda sha256: new_card(settled(sha256)), beside=beside
    )
    return settled(done.sha256)
