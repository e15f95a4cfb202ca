"""The image, as far as that can be told without building one: small, for no one in particular, and read-only."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, SAMPLES

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and not line.startswith("#")]
LAST = LINES[max(place for place, (word, _) in enumerate(LINES) if word == "FROM") :]


def test_it_is_made_of_known_instructions() -> None:
    words = [word for word, _ in LINES]
    assert set(words) <= {"FROM", "RUN", "ENV", "COPY", "USER", "WORKDIR", "ENTRYPOINT"}
    assert words[0] == "FROM"
    for word, rest in LINES:
        if word == "FROM":
            assert re.match(r"[\w./-]+:[\w.-]+", rest), "a version, and not whatever is the newest"
            assert ":latest" not in rest


def test_what_is_copied_is_there_and_goes_into_the_context() -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [name for word, rest in LINES if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in let_in, f".dockerignore keeps {source} out"
    assert {"pyproject.toml", "bdscan"} <= set(let_in), "and the build needs them"
    assert not {".git", "tests", "samples"} & set(let_in)


def test_it_runs_as_nobody_and_holds_no_secret() -> None:
    (user,) = [rest for word, rest in LAST if word == "USER"]
    assert int(user.split(":")[0]) > 0, "a number, so that Kubernetes can tell that it is not root"
    assert [word for word, _ in LAST].index("USER") < [word for word, _ in LAST].index("ENTRYPOINT")
    assert [rest for word, rest in LAST if word == "ENTRYPOINT"] == ['["bdscan"]']
    assert not re.search(r"password|secret|token|api_?key", TEXT, re.IGNORECASE)
    assert not [word for word, _ in LAST if word == "RUN"], "what built it stays behind"


def test_torch_is_the_one_without_cuda_and_torchvision_is_of_the_same_kind() -> None:
    installs = [rest for word, rest in LINES if word == "RUN" and "pip install" in rest]
    assert installs[0].endswith("https://download.pytorch.org/whl/cpu torch torchvision")


def test_nothing_is_written_but_what_was_asked_for(tmp_path: Path) -> None:
    """As with `--read-only --tmpfs /tmp`: home and working folder stay as they were."""
    pairs = re.findall(r"(\w+)=(\S+)", " ".join(rest for word, rest in LAST if word == "ENV"))
    places = {name: value for name, value in pairs if name != "PATH"}
    assert all(value.startswith("/tmp") for name, value in places.items() if name != "PYTHONDONTWRITEBYTECODE")
    for name in ("home", "work", "tmp"):
        (tmp_path / name).mkdir()
    moved = {name: value.replace("/tmp", str(tmp_path / "home"), 1) for name, value in places.items()}
    environment = {**os.environ, **moved, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}
    model, images = str(SAMPLES / "models" / "clean.pt"), str(SAMPLES / "images")
    words = ("inspect", model, "--clean", images, "--probe", "head", "--probe", "artifact", "--format", "sarif")
    done = subprocess.run(
        [sys.executable, "-m", "bdscan", *words], cwd=tmp_path / "work", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr  # two probes alone call nothing clean
    left = [path for name in ("home", "work") for path in (tmp_path / name).iterdir()]
    assert not left, left
