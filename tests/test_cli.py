"""Each exit code, clean stdout, and what happens when the user stops it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SAMPLES
from typer.testing import CliRunner

from bdscan import pipeline

CLEAN = str(SAMPLES / "models" / "clean.pt")
IMAGES = str(SAMPLES / "images")


def test_help_and_methods_start_without_torch() -> None:
    seen = "import sys; print([name for name in ('torch', 'numpy', 'rich') if name in sys.modules])"
    for arguments in (["--help"], ["methods"], ["methods", "inversion"], ["bench", "--help"]):
        code = (
            f"import sys\nfrom bdscan.cli import main\nsys.argv = ['bdscan', *{arguments}]\n"
            f"try:\n    main()\nexcept SystemExit:\n    pass\n{seen}"
        )
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        assert told.stdout.splitlines()[-1] == "[]", arguments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", CLEAN, "--probe", "hed"], "did you mean `head`"),
        (["inspect", CLEAN, "--set", "head.treshold=1"], "did you mean `threshold`"),
        (["inspect", CLEAN, "--set", "head.threshold=much"], "`head.threshold` takes float"),
        (["inspect", CLEAN, "--set", "threshold=1"], "not METHOD.SETTING=VALUE"),
        (["inspect", CLEAN, "--output", "/no/such/folder/x.html"], "folder that does not exist"),
        (["inspect", CLEAN, CLEAN, "--format", "html"], "one HTML file"),
        (["inspect", CLEAN, "--normalize", "wrong", "--probe", "head"], "wrong"),
        (["methods", "lnf"], "did you mean `linf`"),
    ],
)
def test_wrong_usage_is_told_in_a_sentence(arguments: list[str], said: str, bdscan) -> None:  # type: ignore[no-untyped-def]
    status, out, err = bdscan(*arguments)
    assert status == 2
    assert said in err
    assert out == ""
    assert "Traceback" not in err


def test_an_unknown_option_is_wrong_usage(bdscan) -> None:  # type: ignore[no-untyped-def]
    assert bdscan("inspect", CLEAN, "--nonsense")[0] == 2


def test_what_cannot_be_read_is_not_told_to_be_clean(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "garbage.pt").write_bytes(b"nothing of the kind")
    for path in (tmp_path / "garbage.pt", tmp_path / "missing.pt"):
        status, out, err = bdscan("inspect", str(path), "--format", "json")
        assert status == 3
        assert json.loads(out)["verdict"] == "inconclusive"
        assert str(path) in err


def test_several_models_give_an_object_a_line_and_the_gravest_status(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    import os
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Payload()))
    paths = [str(tmp_path / "missing.pt"), str(tmp_path / "evil.pt"), CLEAN]
    status, out, _ = bdscan("inspect", *paths, "--probe", "artifact", "--format", "json")
    told = [json.loads(line) for line in out.splitlines()]
    assert [each["verdict"] for each in told] == ["inconclusive", "backdoored", "inconclusive"]
    assert status == 1
    assert bdscan("inspect", *paths, "--probe", "artifact", "--exit-zero")[0] == 0
    assert bdscan("inspect", paths[1], "--probe", "artifact", "--fail-on", "backdoored")[0] == 1


def test_the_report_goes_to_the_file_and_the_verdict_to_stderr(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    status, out, err = bdscan("inspect", CLEAN, "--probe", "artifact", "--output", str(tmp_path / "report.html"))
    assert status == 3
    assert out == ""
    assert "inconclusive" in err
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_by_hand_picked_probes_no_net_is_clean(bdscan) -> None:  # type: ignore[no-untyped-def]
    status, out, _ = bdscan("inspect", CLEAN, "--clean", IMAGES, "--probe", "head", "--format", "json")
    told = json.loads(out)
    assert (status, told["verdict"]) == (3, "inconclusive")
    (why,) = [reason for reason in told["reasons"] if "by choice" in reason]
    assert "`inversion`" in why
    assert "`head`" not in why


def test_a_spent_budget_keeps_what_was_found_and_is_never_clean(bdscan) -> None:  # type: ignore[no-untyped-def]
    arguments = ("inspect", CLEAN, "--clean", IMAGES, "--probe", "head", "--probe", "linf", "--format", "json")
    status, out, _ = bdscan(*arguments, "--budget", "0")
    told = json.loads(out)
    assert status == 3
    assert told["verdict"] == "inconclusive"
    assert any("budget" in (each["failure"] or "") for each in told["runs"])


def test_ctrl_c_gives_the_partial_report(monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    from bdscan.probes.linf import Linf

    def interrupted(self: Linf, case: object):  # type: ignore[no-untyped-def]
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(Linf, "__call__", interrupted)
    arguments = ("inspect", CLEAN, "--clean", IMAGES, "--probe", "head", "--probe", "linf", "--probe", "noise")
    status, out, _ = bdscan(*arguments, "--format", "json")
    runs = {each["probe"]: each for each in json.loads(out)["runs"]}
    assert status == 3
    assert runs["head"]["findings"]
    assert runs["linf"]["failure"] == "stopped by the user"


def test_a_crash_is_our_own_fault(monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    def broken(path: str, options: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(pipeline, "inspect", broken)
    status, out, err = bdscan("inspect", CLEAN)
    assert status == 4
    assert "our fault: RuntimeError: broken" in out, "a machine that reads stdout is told as well"
    assert "our own fault" in err


def test_the_same_seed_gives_the_same_report(bdscan) -> None:  # type: ignore[no-untyped-def]
    arguments = ("inspect", CLEAN, "--clean", IMAGES, "--probe", "head", "--format", "json")

    def told() -> object:
        report = json.loads(bdscan(*arguments)[1])
        for each in (report["made_with"], *report["runs"]):
            del each["seconds"]
        return report

    assert told() == told()


def test_version() -> None:
    from bdscan import __version__
    from bdscan.cli import app

    assert CliRunner().invoke(app, ["--version"]).stdout == f"bdscan {__version__}\n"
