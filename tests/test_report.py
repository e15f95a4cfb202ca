"""Every form of the report: what it must say, what it must never let through, how large it may grow."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

import bdscan.report
from bdscan.facts.evidence import ChannelNorms, ClassScores, MaskedPattern, Measure, Pictures, RecoveredTrigger
from bdscan.facts.failure import Failure
from bdscan.facts.finding import Finding, Judgement, Level, Run, Verdict
from bdscan.facts.treatment import (
    Accuracy,
    Change,
    Check,
    Reactivation,
    Treatment,
    Trial,
    TriggerOutcome,
    UserTriggerOutcome,
)
from bdscan.report import FORMATS, Report, Subject, html, html_treatment, markdown, pictures, render, render_all, text
from bdscan.report import json as as_json
from bdscan.report import treatment_text as treatment

GOLDEN = Path(__file__).parent / "golden"
EVIL = '<script>alert(1)</script>"|`@everyone\x1b[31m\u202egnp.exe ![x](http://evil.test/x.png)'
NAMES = ("stop", "yield", EVIL, "speed limit 30", "no entry", "priority road", "keep right", "roundabout")


def photographs(count: int, side: int) -> np.ndarray:
    """Smooth colour gradients with a bright disc, different in each picture."""
    y, x = np.mgrid[0:side, 0:side] / side
    made = []
    for index in range(count):
        disc = np.hypot(x - 0.3 - 0.05 * index, y - 0.5) < 0.22
        made.append(np.stack([np.where(disc, 0.9, x * 0.6), np.where(disc, 0.2, y * 0.7), 0.5 - 0.4 * x * y], axis=-1))
    return (np.stack(made) * 255).astype(np.uint8)


def heat(count: int, side: int) -> np.ndarray:
    y, x = np.mgrid[0:side, 0:side] / side
    return np.stack([np.exp(-((x - 0.75) ** 2 + (y - 0.75 + 0.02 * index) ** 2) * 20) for index in range(count)])


def trigger(side: int) -> tuple[np.ndarray, np.ndarray]:
    mask, pattern = np.zeros((side, side)), np.zeros((side, side, 3))
    mask[-9:-2, -9:-2], pattern[-9:-2, -9:-2] = 1, (1.0, 0.85, 0.1)
    return mask, pattern


def norms(channels: int) -> np.ndarray:
    ramp = np.sin(np.arange(channels) * 12.9898) * 0.5 + 0.5
    table = np.stack([3 + ramp, 1 + 0.3 * ramp, 1.4 + 0.4 * ramp], axis=1)
    table[[7, 41]] = [[14, 1.25, 1.9], [11, 1.2, 1.8]]
    return table


def backdoored() -> Report:
    """A report with everything in it, strangers' names included."""
    images, hot, (mask, pattern) = photographs(8, 32), heat(8, 32), trigger(32)
    stamped = np.where(mask[..., None] > 0, (pattern * 255).astype(np.uint8), images)
    scores = np.array([0.4, 0.9, 8.213456789, -0.7, 0.1, 1.2, np.nan, 0.3])
    runs = (
        Run(
            probe="linf",
            family="channels",
            settings={"threshold": 3.5, "layers": 4, "share": 0.1},
            seconds=1.25,
            findings=(
                Finding(
                    level=Level.NOTE,
                    message="`layer3.1` has no channel that stands out",
                    measure=Measure(score=1.9, threshold=3.5),
                ),
                Finding(
                    level=Level.SUSPECT,
                    message="2 channels of `layer4.1` stand out in l-inf and not in l1 or l2",
                    measure=Measure(score=9.87654321, threshold=3.5),
                    target=2,
                    layer="layer4.1",
                    channels=(7, 41),
                    norms=ChannelNorms(norms=norms(64), rise=norms(64)),
                ),
            ),
        ),
        Run(
            probe="invert",
            family="triggers",
            settings={"steps": 200, "rate": 0.1},
            seconds=20.5,
            findings=(
                Finding(
                    level=Level.BACKDOOR,
                    message="a patch of 49 pixels sends 99.2 % of held-out images to one class",
                    measure=Measure(score=8.213456789, threshold=3.5),
                    p_value=0.000212345678,
                    target=2,
                    demonstrated=True,
                    classes=ClassScores(scores=scores),
                    trigger=RecoveredTrigger(pixels=MaskedPattern(mask, pattern)),
                    pictures=Pictures(images=images, stamped=stamped),
                ),
            ),
        ),
        Run(
            probe="gradcam",
            seconds=2.0,
            findings=(
                Finding(
                    level=Level.NOTE,
                    message=f"class `{EVIL}` is looked for at one place, evidence only",
                    measure=Measure(score=0.61),
                    layer="layer4",
                    pictures=Pictures(images=images, heat=hot),
                ),
            ),
        ),
        Run(probe="transfer", settings={"seed": 3}, failure=Failure.refused("ran out of memory at batch 256")),
        Run(probe="head", seconds=0.01),
    )
    return Report(
        subject=Subject(
            path="models/third party <b>/net.pth",
            sha256="ab" * 32,
            format="pytorch zip, state dict under `state_dict`, prefix `module.`",
            arch="preactresnet18",
            classes=8,
            input=(3, 32, 32),
            normalize="cifar10",
            tensors_loaded=122,
            tensors_total=122,
            names=NAMES,
        ),
        judgement=Judgement(
            verdict=Verdict.BACKDOORED,
            p_value=0.000212345678,
            target=2,
            reasons=("`invert` recovered a trigger and showed it on held-out images", "`linf` names the same class"),
        ),
        runs=runs,
        clean_accuracy=0.912345678,
        images=400,
        clean="data/clean",
        made_with={
            "bdscan": "0.1.0",
            "torch": "2.10.0",
            "python": "3.11.9",
            "device": "cpu",
            "seed": 0,
            "seconds": 24.1,
        },
    )


OLD_TREATMENT = {  # what the first reports held, and nothing else
    "method": "fst",
    "settings": {"steps": 100},
    "seconds": 30.0,
    "output": "net.fst.pth",
    "sha256": "cd" * 32,
    "clean_accuracy": {"before": 0.912345678, "after": 0.90},
    "recovered_trigger_success": {"before": 0.992, "after": 0.021, "reinverted": 0.11},
    "reactivation": {"steps": 50, "success": 0.04},
    "verdict": {"before": "backdoored", "after": "clean"},
}
TREATMENT = Treatment(
    method="auto",
    settings={"steps": 100},
    seconds=30.0,
    output="net.fst.pth",
    sha256="cd" * 32,
    notes=(f"alpha is 0.1, because `{EVIL}` and 7 others make 8 classes", "the head was made anew"),
    accuracy=Accuracy(
        before=0.912345678, after=0.90, images=200, p_value=np.float64(0.2345678), same=0.9625, divergence=0.041
    ),
    triggers=(
        TriggerOutcome(target=2, form="patch", before=0.992, after=0.021, recovers=0.883, reinverted=0.11),
        TriggerOutcome(target=4, form="blend", before=0.4, after=0.01, recovers=0.8),
    ),
    reactivation=Reactivation(before=0.021, retuned=0.062, retuned_control=0.058, pushed=0.125, pushed_control=0.115),
    user_trigger=UserTriggerOutcome(
        file="trigger.png",
        target=2,
        accuracy=Change(before=0.91, after=0.9),
        asr=Change(before=1.0, after=0.0125),
        ra=Change(before=0.0, after=0.875),
        der=0.9887,
    ),
    checks=(
        Check(
            name="accuracy",
            passed=np.bool_(True),  # type: ignore[arg-type]
            message="clean accuracy fell by 1.2 points",
            score=0.012,
            threshold=0.04,
        ),
        Check(name="again", passed=True, message="a fresh search finds no trigger"),
        Check(name="pushed", passed=None, message="too few images for the small push"),
    ),
    tried=(
        Trial(
            method="prune",
            seconds=3.25,
            clean_accuracy=0.88,
            recovered_trigger_success=0.48,
            verdict=Verdict.BACKDOORED,
            passed=False,
            why="the recovered trigger still works",
        ),
        Trial(method="nba", passed=False, why="needs a convolution"),
        Trial(
            method="fst",
            seconds=30.0,
            clean_accuracy=0.9,
            recovered_trigger_success=0.021,
            verdict=Verdict.CLEAN,
            passed=True,
        ),
    ),
    verdict_before=Verdict.BACKDOORED,
    verdict_after=Verdict.CLEAN,
)
TREATMENT_KEYS = (  # of the JSON
    *("method", "settings", "seconds", "output", "sha256", "notes", "clean_accuracy", "agreement"),
    *("recovered_trigger_success", "recovered", "reactivation", "checks", "tried", "verdict", "known_trigger", "files"),
)


def treated() -> Report:
    """A model that was purified and came out clean: what the probes found before and after, and every check."""
    before = backdoored()
    linf, invert, gradcam = before.runs[:3]
    flat = replace(linf.findings[1], level=Level.NOTE, message="no channel stands out", channels=())
    again = replace(
        invert.findings[0],
        level=Level.NOTE,
        message="the smallest patch found sends 11.0 % of held-out images to one class",
        p_value=0.4,
        demonstrated=False,
    )
    runs = (replace(linf, findings=(flat,)), replace(invert, findings=(again,)))
    return replace(
        before,
        judgement=Judgement(verdict=Verdict.CLEAN, p_value=0.4),
        runs=runs,
        before=(linf, invert, gradcam),
        clean_accuracy=0.9,
        treatment=TREATMENT,
    )


def unproven() -> Report:
    """No probe objects, but a check failed."""
    message = "five images wake the trigger up"
    woken = Check(name="retuned", passed=False, message=message, score=0.71, threshold=0.2)
    return replace(treated(), treatment=replace(TREATMENT, checks=(woken,)))


def unread() -> Report:
    """A file that could not be read."""
    failure = "`net.pth` ends in the middle of a tensor"
    runs = (Run(probe="load", failure=Failure.refused(failure)),)
    judgement = Judgement(verdict=Verdict.INCONCLUSIVE, reasons=(f"load: {failure}",))
    return Report(subject=Subject(path="net.pth"), judgement=judgement, runs=runs)


def bare() -> Report:
    """Empty and awkward values everywhere."""
    finding = Finding(
        level=Level.NOTE,
        message="nothing measured",
        measure=Measure(score=float("nan"), threshold=float("inf")),
        p_value=float("nan"),
        classes=ClassScores(scores=np.zeros(0)),
        norms=ChannelNorms(norms=np.zeros((0, 3)), rise=np.zeros((0, 3))),
        pictures=Pictures(images=np.zeros((0, 8, 8, 3), np.uint8)),
    )
    settings = {"path": Path("x"), "sizes": (1, np.int64(2))}
    run = Run(probe="linf", settings=settings, findings=(finding,), failure=Failure.refused(""))
    return Report(subject=Subject(path="a.onnx"), judgement=Judgement(verdict=Verdict.CLEAN), runs=(run,), images=0)


def swollen() -> Report:
    """What a hostile file could make of a report: thousands of findings, endless names, noisy pictures."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 224, 224, 3), dtype=np.uint8)
    grave = Finding(
        level=Level.BACKDOOR,
        message="<&@" * 5000,
        measure=Measure(score=1e9),
        target=999,
        pictures=Pictures(images=noise, stamped=noise[::-1]),
        trigger=RecoveredTrigger(pixels=MaskedPattern(noise[0, :, :, 0] / 255, noise[1] / 255)),
        classes=ClassScores(scores=np.arange(1000.0)),
        norms=ChannelNorms(norms=np.random.default_rng(1).normal(size=(2048, 3))),
    )
    unpictured = replace(grave, pictures=None, trigger=None, classes=None, norms=None)
    findings = (grave,) * 30 + tuple(replace(unpictured) for _ in range(3000))
    report = backdoored()
    names = tuple("\U0001f6d1<&" * 5000 for _ in range(1000))
    judgement = replace(report.judgement, reasons=("@`|" * 5000,) * 300, target=999)
    settings = {f"setting{index}": "<" * 5000 for index in range(50)}
    run = Run(probe="invert", settings=settings, findings=findings)
    runs = (run, *report.runs)
    subject = replace(report.subject, names=names)
    return replace(report, subject=subject, judgement=judgement, runs=runs, before=runs, treatment=swollen_treatment())


def swollen_treatment() -> Treatment:
    long = "<&@`|" * 5000
    check = Check(name=long, passed=False, message=long, score=1e300, threshold=-1e300)
    trigger = TriggerOutcome(target=999, form=long, before=1, after=1, recovers=0, reinverted=1)
    trial = Trial(method=long, seconds=1e300, verdict=Verdict.CLEAN, passed=True, why=long)
    return replace(
        TREATMENT,
        checks=(check,) * 1000,
        triggers=(trigger,) * 1000,
        tried=(trial,) * 1000,
        notes=(long,) * 1000,
        method=long,
        output=long[:4000],
        settings={f"setting{index}": long for index in range(50)},
    )


ALL = (backdoored, treated, unproven, unread, bare, swollen)


class Page(HTMLParser):
    """What a browser would see: tags, attributes, words."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def pictures(self) -> list[str]:
        return [value for key, value in self.attributes if key == "src"]


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def schema() -> Any:
    return json.loads((Path(bdscan.report.__file__).parent / "schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
@pytest.mark.parametrize("make", [backdoored, treated, unread], ids=lambda make: make.__name__)
def test_golden(form: str, make: Callable[[], Report]) -> None:
    golden = GOLDEN / f"{make.__name__}.{ {'text': 'txt', 'json': 'json', 'markdown': 'md'}[form] }"
    said = render(make(), form) + "\n"
    if os.environ.get("BDSCAN_GOLDEN"):
        golden.write_text(said, encoding="utf-8")
    assert said == golden.read_text(encoding="utf-8"), "BDSCAN_GOLDEN=1 rewrites the golden files"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_every_form_renders_everything_without_a_stray_character(form: str, make: Callable[[], Report]) -> None:
    said = render(make(), form)
    assert make().verdict.word in said.lower()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", said)
    assert not said.endswith("\n")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("verdict", Verdict)
def test_no_verdict_is_called_safe(form: str, verdict: Verdict) -> None:
    said = render(replace(unread(), judgement=Judgement(verdict=verdict)), form)
    assert not re.search(r"\bsafe\b", Page(said).text if form == "html" else said.lower())


def test_two_renderings_of_the_same_report_are_the_same_bytes() -> None:
    assert [render(backdoored(), form) for form in FORMATS] == [render(backdoored(), form) for form in FORMATS]


# text


def test_text_says_what_a_log_reader_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    said = text.render(backdoored())
    assert re.search(r"^linf +suspect +2 channels .*\(9\.877 vs threshold 3\.5\)$", said, re.MULTILINE)
    assert re.search(r"^linf +- +1 more in the HTML and JSON reports", said, re.MULTILINE)
    assert re.search(r"^transfer +failed +ran out of memory", said, re.MULTILINE)
    assert re.search(r"^failed +transfer: ran out of memory", said, re.MULTILINE)
    assert said.splitlines()[-1].startswith("hint: ")


def test_text_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (60, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = text.render(backdoored()).splitlines()
        assert max(len(line) for line in lines if not line.startswith("hint:")) <= width


def test_colour_only_when_asked_and_never_under_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    bare_text = text.render(backdoored())
    coloured = text.render(backdoored(), colour=True)
    assert "\x1b[" not in bare_text
    assert "\x1b[" in coloured
    assert [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines()] == bare_text.splitlines()
    monkeypatch.setenv("NO_COLOR", "1")
    assert text.render(backdoored(), colour=True) == bare_text


@pytest.mark.parametrize(
    ("report", "wanted"),
    [
        (backdoored(), "another source, or try `bdscan purify 'models/third party <b>/net.pth' --clean data/clean"),
        (backdoored(), "--method auto --output FILE`"),
        (replace(backdoored(), images=None), "do not deploy it: get the model from another source, or train one"),
        (replace(backdoored(), subject=Subject(path="x")), "another source, or train one on data you trust"),
        (treated(), "use the purified file"),
        (replace(treated(), treatment=replace(TREATMENT, output=None)), "name a file for it with `--output`"),
        (unproven(), "could not be shown gone"),
        (replace(treated(), judgement=Judgement(verdict=Verdict.SUSPICIOUS)), "could not be shown gone"),
        (unread(), "nothing was judged"),
        (replace(unread(), runs=(Run(probe="head", failure=Failure.ours("KeyError: 1")),)), "report"),
        (replace(backdoored(), judgement=Judgement(verdict=Verdict.INCONCLUSIVE)), "mend what failed"),
    ],
)
def test_hint_says_what_to_do_next(report: Report, wanted: str) -> None:
    assert wanted in text.render(report).splitlines()[-1]


def after(verdict: Verdict, **changes: object) -> Report:
    return replace(treated(), judgement=Judgement(verdict=verdict), treatment=replace(TREATMENT, **changes))


@pytest.mark.parametrize(
    ("report", "wanted"),
    [
        (
            treated(),
            "the recovered trigger no longer works, a fresh search finds none, "
            "and no probe objects to the treated model",
        ),
        (
            after(Verdict.CLEAN, triggers=()),
            "no trigger had been recovered that could be tried again, and no probe objects to the treated model",
        ),
        (
            after(Verdict.CLEAN, checks=()),
            "the recovered trigger works on 2.1 % of images where it worked on 99.2 %, "
            "and no probe objects to the treated model",
        ),
        (
            unproven(),
            "no probe objects to the treated model, but one check failed: "
            "five images wake the trigger up (0.71 vs threshold 0.2)",
        ),
        (after(Verdict.BACKDOORED), "the evidence says that the treated model still carries a backdoor"),
        (
            after(Verdict.SUSPICIOUS, checks=(Check(name="a", passed=False, message="worse"),) * 2),
            "something in the treated model is still unusual for a clean one, and 2 checks failed: worse; worse",
        ),
        (after(Verdict.INCONCLUSIVE), "could not tell whether the treated model is rid of its backdoor"),
    ],
)
def test_the_sentence_of_a_treated_report_is_about_the_treatment(report: Report, wanted: str) -> None:
    assert treatment.sentence(report) == wanted
    for form in ("text", "html", "markdown"):
        said = render(report, form)
        shown = Page(said).text if form == "html" else re.sub(r"\s+", " ", said)
        assert wanted in shown.replace(wanted.capitalize(), wanted)


def test_text_tells_each_check_and_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    said = text.render(treated())
    assert re.search(r"^changed +clean accuracy \(200 held-out images, p = 0\.2346\): 91\.2 % -> 90\.0 %$", said, re.M)
    assert re.search(r"^checks +passed: clean accuracy fell by 1\.2 points \(0\.012 vs threshold 0\.04\)$", said, re.M)
    assert re.search(r"^ +not done: too few images for the small push$", said, re.M)
    assert re.search(
        r"^tried +prune: backdoored, failed \(3\.25 s, .*\): the recovered trigger still works$", said, re.M
    )
    assert re.search(r"^ +nba: not judged, failed \(-, clean accuracy -, .*\): needs a convolution$", said, re.M)


def test_a_dangerous_file_is_not_called_a_backdoored_model() -> None:
    danger = Finding(level=Level.BACKDOOR, message="the pickle calls `os.system`")
    runs = (Run(probe="artifact", family="file", findings=(danger,)),)
    said = text.render(replace(unread(), judgement=Judgement(verdict=Verdict.BACKDOORED), runs=runs))
    assert "dangerous to load" in said
    assert "purify" not in said


# JSON


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_json_keeps_the_schema(make: Callable[[], Report]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    said = json.loads(as_json.render(make()), parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
    jsonschema.Draft202012Validator(schema()).validate(said)
    assert list(said) == list(schema()["properties"])
    assert list(said["subject"]) == list(schema()["$defs"]["subject"]["properties"])
    for run in (*said["runs"], *said["runs_before"]):
        assert list(run) == list(schema()["$defs"]["run"]["properties"])
        for finding in run["findings"]:
            assert list(finding) == list(schema()["$defs"]["finding"]["properties"])


def test_the_schema_refuses_what_is_no_report() -> None:
    said = json.loads(as_json.render(backdoored()))
    broken: dict[str, Any]
    for broken in ({"verdict": "fine"}, {"p_value": 2}, {"runs": [{}]}, {"target": -1}, {"schema": "bdscan.report/2"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(said | broken, schema())


def test_json_rounds_and_leaves_out_what_is_no_number() -> None:
    said = json.loads(as_json.render(backdoored()))
    finding = said["runs"][1]["findings"][0]
    assert finding["score"] == 8.21346
    assert finding["per_class"] == {"scores": [0.4, 0.9, 8.21346, -0.7, 0.1, 1.2, None, 0.3], "p_values": []}
    assert said["subject"]["names"][2] == EVIL
    assert json.loads(as_json.render(bare()))["runs"][0]["settings"] == {"path": "x", "sizes": [1, 2]}


def test_compact_json_is_one_line() -> None:
    assert "\n" not in as_json.render(backdoored(), compact=True)
    assert json.loads(as_json.render(backdoored(), compact=True)) == json.loads(as_json.render(backdoored()))


def test_reports_written_before_keep_their_schema() -> None:
    said = json.loads(as_json.render(treated()))
    del said["runs_before"]
    jsonschema.validate(said | {"treatment": OLD_TREATMENT}, schema())


def test_json_holds_the_whole_treatment() -> None:
    said = json.loads(as_json.render(treated()))
    assert tuple(said["treatment"]) == TREATMENT_KEYS
    assert [check["passed"] for check in said["treatment"]["checks"]] == [True, True, None]
    assert set(said["treatment"]) <= set(schema()["$defs"]["treatment"]["properties"])
    assert [run["probe"] for run in said["runs_before"]] == ["linf", "invert", "gradcam"]
    assert json.loads(as_json.render(backdoored()))["runs_before"] == []


def test_several_reports_are_one_object_a_line() -> None:
    lines = render_all([backdoored(), treated(), unread()], "json").splitlines()
    assert [json.loads(line)["verdict"] for line in lines] == ["backdoored", "clean", "inconclusive"]
    assert render_all([backdoored()], "json") == render(backdoored(), "json")


# markdown


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_markdown_fits_a_comment(make: Callable[[], Report]) -> None:
    assert len(markdown.render(make()).encode()) < 60_000


def test_several_reports_fit_a_comment_with_the_gravest_first() -> None:
    clean = replace(bare(), subject=Subject(path="models/fine.pt"))
    said = markdown.render_all([clean, unread(), backdoored(), *[backdoored()] * 29, swollen()])
    assert len(said.encode()) < 65_536
    verdicts = re.findall(r"^\| \*\*(\w+)\*\* \|", said, re.MULTILINE)
    assert verdicts == ["backdoored"] * 31 + ["inconclusive", "clean"]
    assert re.search(r"^\d+ more reports in the JSON report$", said, re.MULTILINE)
    few = markdown.render_all([clean, unread()])
    assert few.index("### bdscan: inconclusive") < few.index("### bdscan: clean")


def test_markdown_lets_no_name_become_markup() -> None:
    outside = Finding(level=Level.NOTE, message=EVIL.replace("`", ""))
    said = markdown.render(replace(backdoored(), runs=(Run(probe="linf", findings=(outside,)),)))
    prose = re.sub(r"`[^`]*`", "", said)
    assert not re.search(r"(?<!\\)<\w|@\w|://|(?<!\\)\]\(", prose)
    table = [line for line in said.splitlines() if line.startswith("| `linf`")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in table] == [7]


# HTML


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_html_needs_nothing_from_outside_and_stays_small(make: Callable[[], Report]) -> None:
    source = html.render(make())
    page = Page(source)
    assert len(source.encode()) < 3_000_000
    assert not {"script", "iframe", "object", "embed", "form", "a", "base"} & set(page.tags)
    assert not [key for key, _ in page.attributes if key.startswith("on")]
    assert all(value.startswith("data:") for key, value in page.attributes if key in {"src", "href", "srcset"})
    assert not re.search(r"url\(|@import", source)
    for picture in page.pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2], validate=True))) as opened:
            opened.load()


def test_html_lets_no_probe_crowd_out_another() -> None:
    page = Page(html.render(swollen()))
    assert "more findings in the JSON report" in page.text
    assert "More pictures were left out" in page.text
    assert "is looked for at one place" in page.text
    assert [value for key, value in page.attributes if key == "alt"].count("where it looks") == 12  # as many before


def test_html_shows_strangers_names_as_words() -> None:
    page = Page(html.render(backdoored()))
    assert "<script>alert(1)</script>" in page.text
    assert "models/third party <b>/net.pth" in page.text
    assert not {"script", "x"} & set(page.tags)


def test_html_holds_every_number_and_setting() -> None:
    words = Page(html.render(backdoored())).text
    for wanted in (
        "8.213",
        "3.5",
        "0.0002123",
        "invert.steps",
        "200",
        "122 of 122 loaded",
        "91.2 %",
        "ran out of memory",
    ):
        assert wanted in words


def test_html_draws_what_the_arrays_hold() -> None:
    page = Page(html.render(backdoored()))
    alts = [value for key, value in page.attributes if key == "alt"]
    assert alts.count("mask") == alts.count("pattern") == alts.count("pattern under the mask") == 1
    assert alts.count("with the trigger") == 4  # 3 pictures of the trigger, and 12 in all
    assert alts.count("where it looks") == 6
    assert page.tags.count("rect") == 7  # one score is no number
    assert page.tags.count("circle") == 12  # two outliers in twice three panels
    assert "threshold 3.5" in page.text


def test_html_puts_before_beside_after() -> None:
    page = Page(html.render(treated()))
    assert page.text.count("Before") >= 3
    assert page.text.index("Before and after") < page.text.index("Subject")
    assert "not done" in page.text
    assert "Nothing of the kind was found" not in page.text
    assert "`gradcam` was not run on the treated model".replace("`", "") in page.text
    assert page.tags.count("details") == 1
    assert "Before and after" not in Page(html.render(backdoored())).text


def test_a_finding_is_compared_with_its_like() -> None:
    def found(message: str, **more: object) -> Finding:
        return Finding(level=Level.NOTE, message=message, **more)  # type: ignore[arg-type]

    mask = RecoveredTrigger(pixels=MaskedPattern(np.eye(4), np.ones((4, 4, 3))))
    norm = ChannelNorms(norms=np.eye(3))
    before = (
        found("a", target=1, trigger=mask),
        found("b", target=2, trigger=mask),
        found("c", norms=norm),
        found("d"),
    )
    later = (found("z", norms=norm), found("y", target=2, trigger=mask), found("x", target=5, trigger=mask))
    runs, old = (
        (Run(probe="p", findings=later),),
        (Run(probe="p", findings=before), Run(probe="q", findings=before[:1])),
    )
    pairs = html_treatment.pairs(replace(treated(), runs=runs, before=old))
    told = {(pair.run.probe, pair.before.message): pair.after and pair.after.message for pair in pairs}
    assert told == {("p", "a"): "x", ("p", "b"): "y", ("p", "c"): "z", ("q", "a"): None}


def test_bars_show_the_highest_classes_and_the_target() -> None:
    for target, first, last, out in ((700, 999, 977, 976), (3, 9, 23, 24)):  # high like the first, low like the second
        classes = ClassScores(scores=np.arange(1000.0))
        finding = Finding(level=Level.NOTE, message="many", target=target, classes=classes)
        report = replace(backdoored(), runs=(Run(probe="head", findings=(finding,)),))
        page = Page(html.render(replace(report, subject=replace(report.subject, names=()))))
        assert page.tags.count("rect") == 24
        assert {target, first, last} <= {int(found) for found in re.findall(r"class (\d+):", page.text)}
        assert f"class {out}:" not in page.text


def test_pictures_of_any_shape_are_drawn_at_a_bearable_size() -> None:
    for shape in ((2, 300, 40, 3), (2, 20, 500, 1), (2, 8, 8, 4)):
        images = np.full(shape, 200, np.uint8)
        shown = Pictures(images=images, heat=np.full((2, 4, 4), np.nan), place=np.eye(28))
        strips = Page("".join(pictures.strips(None, shown)))
        assert len(strips.pictures) == 5
        assert all(1 <= int(value) <= 256 for key, value in strips.attributes if key in {"width", "height"})


def test_hotter_is_lighter() -> None:
    ramp = pictures.colour(np.linspace(0, 1, 64)) / 255
    linear = np.where(ramp <= 0.04045, ramp / 12.92, ((ramp + 0.055) / 1.055) ** 2.4)
    lightness = np.cbrt(linear @ np.array([0.2126, 0.7152, 0.0722]))
    assert (np.diff(lightness) > 0).all()


def test_no_form_imports_torch() -> None:
    program = f"import sys; from bdscan.report import {', '.join(FORMATS)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
