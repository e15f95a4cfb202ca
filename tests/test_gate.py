"""The gate as a pipeline meets it: stdout is for machines whatever happens, and what goes wrong is one sentence."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import ROOT, SAMPLES

from bdscan import pipeline
from bdscan.cli.choices import Format

CLEAN = str(SAMPLES / "models" / "clean.pt")
MACHINES = [form for form in Format if form not in (Format.text, Format.markdown, Format.html)]


def broken(*_: object) -> None:
    raise RuntimeError("broken\nin two lines")


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


def evil(path: Path) -> str:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    path.write_bytes(pickle.dumps(Payload()))
    return str(path)


# What may go wrong with a model: how it is named, and the exit status.
FAILURES: dict[str, tuple[Callable[[Path], str], int]] = {
    "missing": (lambda at: str(at / "missing.pt"), 3),
    "garbage": (lambda at: _written(at / "garbage.pt", b"nothing of the kind"), 3),
    "empty": (lambda at: _written(at / "empty.pt", b""), 3),
    "pointer": (lambda at: _written(at / "pointer.pt", b"version https://git-lfs.github.com/spec/v1\n"), 3),
    "strange name": (lambda at: _written(at / "\x1b[2J<&>\n'\".pt", b"x"), 3),
    "no model": (lambda at: str(_folder(at / "folder")), 3),
    "no match": (lambda at: str(at / "*.onnx"), 3),
    "unreachable": (lambda at: "memory://gone.pt", 3),
    "dangerous": (lambda at: evil(at / "evil.pt"), 1),
}
# What may go wrong with the call: options, and what is said.
MISTAKES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no such probe": (lambda at: ["--probe", "hed"], "did you mean `head`"),
    "no such setting": (lambda at: ["--set", "head.treshold=1"], "did you mean `threshold`"),
    "policy with a typo": (lambda at: ["--policy", _written(at / "p", b"fail_on = 1")], "did you mean `fail-on`"),
    "policy that is not there": (lambda at: ["--policy", str(at / "none")], "cannot be read: No such file"),
    "policy that asks for no probe": (lambda at: ["--policy", _written(at / "p", b'require = ["hed"]')], "`head`"),
    "baseline that is none": (lambda at: ["--baseline", _written(at / "b", b"{}")], "its schema is not"),
    "no driver": (lambda at: ["gs://bucket/net.pt"], "a driver that is not installed"),
    "no such scheme": (lambda at: ["warp://bucket/net.pt"], "nobody knows addresses"),
    "no MLflow": (lambda at: ["models:/net/3"], "MLflow, which is not installed"),
    "cache that is a file": (lambda at: ["--cache", _written(at / "c", b"")], "is not a folder"),
    "output into nowhere": (lambda at: ["--output", str(at / "no" / "x.sarif")], "folder that does not exist"),
    "no such option": (lambda at: ["--nonsense"], "No such option"),
}


def _written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def _folder(path: Path) -> Path:
    path.mkdir()
    (path / "notes.txt").write_text("x")
    return path


def machine_reads(out: str, form: Format) -> int:
    """How many models the output is about; fails where a machine could not read it."""
    if form is Format.json:
        return len([json.loads(line) for line in out.splitlines()] if "\n{" in out.strip() else [json.loads(out)])
    if form is Format.junit:
        return int(ElementTree.fromstring(out).get("tests", "0"))
    if form is Format.sarif:
        return len(json.loads(out)["runs"][0]["results"])
    for line in out.splitlines() if form is Format.intoto else [out]:
        json.loads(line)
    return 1


@pytest.fixture(autouse=True)
def _no_drivers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever happens to be installed here."""
    import fsspec

    def get(protocol: str) -> object:
        if protocol == "gs":
            raise ImportError("Please install gcsfs")
        return known(protocol)

    known, find = fsspec.get_filesystem_class, importlib.util.find_spec
    monkeypatch.setattr(fsspec, "get_filesystem_class", get)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "mlflow" else find(name, *more)
    )
    yield


@pytest.mark.parametrize("form", MACHINES)
@pytest.mark.parametrize("failure", FAILURES)
def test_stdout_is_pure_whatever_a_model_is_like(failure: str, form: Format, tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    name, expected = FAILURES[failure][0](tmp_path), FAILURES[failure][1]
    status, out, err = bdscan("inspect", name, CLEAN, "--probe", "artifact", "--format", form.value)
    assert status == expected
    assert "\x1b" not in out + err
    assert "Traceback" not in err
    assert machine_reads(out, form) >= (2 if form in (Format.json, Format.junit, Format.sarif) else 1)


@pytest.mark.parametrize("form", MACHINES)
@pytest.mark.parametrize(("inspect", "expected"), [(broken, 4), (stopped, 3)])
def test_stdout_is_pure_after_a_crash_and_after_ctrl_c(inspect, expected, form, monkeypatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(pipeline, "inspect", inspect)
    status, out, _ = bdscan("inspect", CLEAN, CLEAN, "--format", form.value)
    assert status == expected
    if out.strip() or form is not Format.intoto:
        machine_reads(out, form)


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_on_stderr_alone(mistake: str, form: Format, tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    options, said = MISTAKES[mistake]
    status, out, err = bdscan("inspect", CLEAN, "--format", form.value, *options(tmp_path))
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    sentences = [line for line in err.splitlines() if line.startswith("bdscan: ")]
    assert len(sentences) == (0 if mistake == "no such option" else 1), (
        "one sentence; the option parser has words of its own"
    )


def test_python_has_the_gate_too(tmp_path: Path) -> None:
    """A limit that is missed is a finding of the report, an acceptance lets it pass, and no command line is needed."""
    known, policy = tmp_path / "known.json", tmp_path / "bdscan.toml"
    policy.write_text('require = ["artifact", "head"]\nminimum-clean-accuracy = 0.9\n', encoding="utf-8")
    code = f"""
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from bdscan import pipeline
from bdscan.facts.finding import Verdict
from bdscan.gate.apply import GateRecord
from bdscan.gate.baseline import read_baseline
from bdscan.gate.policy import read_policy
from bdscan.gate.provenance import inputs
from bdscan.report import Acceptance

report = pipeline.inspect({CLEAN!r}, pipeline.Options(probes=("artifact",)))
rules, known = read_policy(Path({str(policy)!r})), Path({str(known)!r})
gate = pipeline.GateOptions(policy=rules, inputs=inputs({{"policy": {str(policy)!r}}}))

gated = pipeline.apply_gate(report, gate)
print(gated.unmet, [each.role for each in gated.inputs], report.unmet)
measured = replace(report, clean_accuracy=0.5)
refused = pipeline.apply_gate(measured, gate)
print(refused.refused, refused.found(Verdict.SUSPICIOUS))

record = GateRecord(gate)
record.add(refused)
known.write_text(record.next_baseline().to_json())
again = pipeline.apply_gate(measured, replace(gate, baseline=read_baseline(known)))
print(again.baseline, again.found(Verdict.SUSPICIOUS))
other = Acceptance(sha256="cd" * 32, reason="gone", expires=date(2999, 1, 1))
print(*GateRecord(replace(gate, policy=replace(rules, accept=(other,)))).remarks())
assert not {{"typer", "bdscan.cli"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    gated, refused, again, remark = done.stdout.splitlines()
    assert "requires `head`, which did not run" in gated and "none was measured" in gated
    assert gated.endswith("['policy'] ()")
    assert "at least 90.0%, and it is 50.0%" in refused and refused.endswith("True")
    assert again == "unchanged False"
    assert remark == "the acceptance of cdcdcdcdcdcd… fits none of the files that were looked at: gone"
