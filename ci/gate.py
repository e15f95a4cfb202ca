"""One scan as `action.yml` asks for it: its inputs come by environment, and the verdict goes to the steps behind it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

OPTIONS = ("clean", "policy", "fail-on", "effort")
FILES = {
    "sarif": "bdscan.sarif",
    "json": "bdscan.json",
    "summary": "bdscan.md",
    "sbom": "bdscan.cdx.json",
    "attestation": "bdscan.intoto.jsonl",
}
STATUS_WORDS = {1: "found", 2: "wrong usage", 3: "could not tell", 4: "bdscan's own fault"}


def main(env: Mapping[str, str]) -> None:
    """The status is an output and not this step's own, so that the findings are still uploaded."""
    home = Path(env["RUNNER_TEMP"]) / "bdscan"
    files = {name: home / file for name, file in FILES.items()}
    for file in files.values():  # of an earlier use of the action in the same job
        file.unlink(missing_ok=True)
    # -I: the folder that is scanned may hold a `torch.py`.
    command = [sys.executable, "-I", "-m", "bdscan", "inspect", *arguments(env, home, files)]
    status = subprocess.run(command).returncode  # noqa: S603 - no shell reads it
    written = {name: str(file) for name, file in files.items() if file.exists()}
    with Path(env["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as outputs:
        outputs.writelines(f"{name}={value}\n" for name, value in {"status": status, **written}.items())
    with Path(env["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as summary:
        summary.write(files["summary"].read_text(encoding="utf-8") if "summary" in written else no_report(status))


def arguments(env: Mapping[str, str], home: Path, files: Mapping[str, Path]) -> Iterator[str]:
    """The command line; a model's name that begins with a dash is no option."""
    for name in OPTIONS:
        if value := env.get(f"INPUT_{name.upper().replace('-', '_')}", ""):
            yield f"--{name}={value}"
    if env.get("INPUT_CACHE") == "true":
        yield f"--cache={home / 'cache'}"
    yield from (f"--output={file}" for file in files.values())
    yield from shlex.split(env.get("INPUT_ARGS", ""))
    yield "--"
    yield from filter(None, map(str.strip, env["INPUT_MODELS"].splitlines()))


def no_report(status: int) -> str:
    return f"### bdscan: {STATUS_WORDS.get(status, status)}\n\nThere is no report; the log of this step says why.\n"


if __name__ == "__main__":
    main(os.environ)
