"""CycloneDX: what the field's own strict validator takes, and that it says what was found."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLES
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from test_purify_cli import arguments, sha256, ward
from test_report import ALL, EVIL, backdoored, bare, treated, unread

from bdscan.gate.provenance import digest, inputs
from bdscan.report import Acceptance, Input, Report, Subject, render, render_all
from bdscan.report.cyclonedx import document

__all__ = ["ward"]  # a fixture

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)
CLEAN = str(SAMPLES / "models" / "clean.pt")
IMAGES = str(SAMPLES / "images")
READ = (Input(role="clean", path="data/clean.npz", digest={"sha256": "12" * 32}),)


def held(*reports: Report) -> dict[str, Any]:
    """A document that keeps the schema, and that the field's library can read."""
    text = render_all(reports, "cyclonedx")
    assert (problem := VALIDATOR.validate_str(text)) is None, problem
    told: dict[str, Any] = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
    read = Bom.from_json(told)  # type: ignore[attr-defined]
    assert {each.name for each in read.components} == {each["name"] for each in told["components"]}
    refs = [each["bom-ref"] for each in (*told["components"], *told["vulnerabilities"])]
    assert len(refs) == len(set(refs))
    return told


def properties(component: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in component["properties"]}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_every_report_keeps_the_schema(make: Callable[[], Report]) -> None:
    told = held(replace(make(), inputs=READ))
    assert "\x1b" not in json.dumps(told, ensure_ascii=False)
    assert "\u202e" not in json.dumps(told, ensure_ascii=False)
    assert len(json.dumps(told)) < 100_000, "whatever a hostile file holds"


def test_the_validator_would_notice() -> None:
    for key, value in (("type", "model"), ("modelcard", {}), ("hashes", [{"alg": "SHA-256", "content": "x"}])):
        broken = document([backdoored()])
        broken["components"][0][key] = value
        assert VALIDATOR.validate_str(json.dumps(broken)) is not None, key


def test_a_model_is_told_by_its_bytes_and_its_card() -> None:
    model, images = held(replace(backdoored(), inputs=READ))["components"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "net.pth")
    assert model["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert model["evidence"]["occurrences"] == [{"location": "models/third party <b>/net.pth"}]
    card = model["modelCard"]
    assert card["modelParameters"] == {
        "task": "image-classification",
        "modelArchitecture": "preactresnet18",
        "datasets": [{"ref": "clean"}],
        "inputs": [{"format": "image, 3x32x32 (channels, height, width), normalisation cifar10"}],
        "outputs": [{"format": "one number for each of 8 classes"}],
    }
    accuracy = {"type": "accuracy", "value": "0.9123", "slice": "400 clean images from data/clean"}
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [accuracy]
    limits = card["considerations"]["technicalLimitations"]
    assert limits[0] == "the evidence says that this model carries a backdoor"
    assert any("No scan proves" in each for each in limits)
    assert properties(model)["bdscan:verdict"] == "backdoored"
    assert properties(model)["bdscan:p_value"] == "0.0002123"
    assert (images["type"], images["bom-ref"]) == ("data", "clean")
    assert images["hashes"] == [{"alg": "SHA-256", "content": "12" * 32}]


def test_what_is_found_is_a_vulnerability_and_what_is_not_is_none() -> None:
    first, second = (f"{name}.pt" for name in "ab")
    bad = replace(backdoored(), subject=replace(backdoored().subject, path=first))
    accepted = Acceptance(sha256="ab" * 32, reason="the demo needs it", expires=date(2099, 1, 1))
    told = held(bare(), bad, unread(), replace(bad, subject=Subject(path=second), accepted=accepted))
    one, two = told["vulnerabilities"]
    assert (one["id"], one["cwes"], one["ratings"][0]["severity"]) == ("backdoored-model", [506], "critical")
    named = {each["bom-ref"]: each["name"] for each in told["components"]}
    assert [named[each["affects"][0]["ref"]] for each in (one, two)] == [first, second]
    assert "analysis" not in one
    assert two["analysis"]["response"] == ["will_not_fix"]
    assert "the demo needs it" in two["analysis"]["detail"]


def test_nothing_is_made_up_about_a_file_that_could_not_be_read() -> None:
    (model,) = held(unread())["components"]
    assert "hashes" not in model
    assert model["modelCard"]["modelParameters"] == {"task": "image-classification"}
    assert "quantitativeAnalysis" not in model["modelCard"]
    assert properties(model)["bdscan:verdict"] == "inconclusive"


def test_a_treated_model_descends_from_the_original() -> None:
    (model,) = held(treated())["components"]
    assert (model["name"], model["hashes"][0]["content"]) == ("net.fst.pth", "cd" * 32)
    (ancestor,) = model["pedigree"]["ancestors"]
    assert (ancestor["name"], ancestor["hashes"][0]["content"]) == ("net.pth", "ab" * 32)
    assert "with the method auto" in model["pedigree"]["notes"]
    metrics = {each["type"]: each for each in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    assert metrics["accuracy"]["value"] == "0.9"
    assert metrics["accuracy"]["slice"].startswith("200 clean images")
    assert metrics["recovered trigger success"]["value"] == "0.021"
    assert any("91.2 %" in each and "90.0 %" in each for each in _tradeoffs(model))


def _tradeoffs(model: dict[str, Any]) -> list[str]:
    told: list[str] = model["modelCard"]["considerations"]["performanceTradeoffs"]
    return told


def test_the_serial_number_follows_from_the_content() -> None:
    def number(report: Report) -> str:
        return str(held(report)["serialNumber"])

    assert uuid.UUID(number(backdoored())).version == 5
    later = replace(backdoored(), made_with={**backdoored().made_with, "seconds": 99.0})
    assert render(backdoored(), "cyclonedx") == render(later, "cyclonedx"), "how long it took changes nothing"
    other = replace(backdoored(), subject=replace(backdoored().subject, sha256="ef" * 32))
    assert number(backdoored()) != number(other)


def test_a_strangers_name_stays_a_name() -> None:
    (model,) = held(replace(backdoored(), subject=Subject(path=f"odd\udcff{EVIL}.pt")))["components"]
    assert model["name"] == "x.png).pt"
    assert model["evidence"]["occurrences"][0]["location"].startswith("odd\\udcff<script>")


def test_a_digest_is_what_sha256sum_prints(tmp_path: Path) -> None:
    (tmp_path / "images" / "b").mkdir(parents=True)
    (tmp_path / "images" / "a.png").write_bytes(b"one")
    (tmp_path / "images" / "b" / "c.png").write_bytes(b"two")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.png").write_bytes(b"three")
    (tmp_path / "images" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "b" / "round").symlink_to(tmp_path / "images")
    assert digest(tmp_path / "images" / "a.png") == {"sha256": _sums("one")}
    lines = [
        f"{_sums(text)}  {name}\n" for name, text in (("a.png", "one"), ("b/c.png", "two"), ("link/d.png", "three"))
    ]
    assert digest(tmp_path / "images") == {"dirHash": _sums("".join(lines))}
    assert digest(tmp_path / "none") == {}
    (whole,) = inputs({"clean": f"imagefolder:{tmp_path / 'images'}", "policy": None})
    assert (whole.role, whole.digest) == ("clean", digest(tmp_path / "images"))


def _sums(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_it_is_written_beside_the_report(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    asked = ("inspect", CLEAN, "--probe", "artifact", "--clean", IMAGES, "--sbom", "bom.json")
    status, out, err = bdscan(*asked, "--format", "json")
    assert status == 3
    assert json.loads(out)["inputs"] == [{"role": "clean", "path": IMAGES, "digest": digest(Path(IMAGES))}]
    assert "wrote bom.json" in err
    text = (tmp_path / "bom.json").read_text(encoding="utf-8")
    assert VALIDATOR.validate_str(text) is None
    assert [each["name"] for each in json.loads(text)["components"]] == ["clean.pt", "images"]
    bdscan(*asked[:-2], "--output", "again.cdx.json")
    assert (tmp_path / "again.cdx.json").read_text(encoding="utf-8") == text, "same seed, same bytes"
    assert bdscan(*asked[:-1], "/no/such/folder/bom.json")[0] == 2


def test_many_models_are_many_components(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "garbage.pt").write_bytes(b"nothing of the kind")
    bdscan("inspect", CLEAN, str(tmp_path), "--probe", "artifact", "--sbom", "bom.json", "--output", "all.md")
    told = json.loads((tmp_path / "bom.json").read_text(encoding="utf-8"))
    assert VALIDATOR.validate_str(json.dumps(told)) is None
    assert [each["name"] for each in told["components"]] == ["clean.pt", "garbage.pt"]
    assert all("hashes" in each for each in told["components"]), "the bytes are known also where they mean nothing"


def test_purify_tells_what_its_model_comes_from(ward: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    idle = ("--method", "finetune", "--set", "finetune.rate=1e-8", "--set", "finetune.epochs=1", "--format", "json")
    beside = ("--sbom", str(ward / "bom.json"), "--attest", str(ward / "test.json"))
    status, out, _ = bdscan(*arguments(ward, "backdoored", *idle, *beside))
    assert status == 1
    report = json.loads(out)
    assert {Path(each["path"]).name: each["digest"]["sha256"] for each in report["treatment"]["files"]} == {
        name: sha256(ward / name) for name in ("out.pt", "out.md")
    }
    assert {each["role"]: each["digest"]["sha256"] for each in report["inputs"]} == {
        "clean": sha256(ward / "images.npz"),
        "arch": sha256(ward / "small.py"),
    }
    text = (ward / "bom.json").read_text(encoding="utf-8")
    assert VALIDATOR.validate_str(text) is None
    model = json.loads(text)["components"][0]
    assert (model["name"], model["hashes"][0]["content"]) == ("out.pt", sha256(ward / "out.pt"))
    assert model["pedigree"]["ancestors"][0]["hashes"][0]["content"] == sha256(ward / "backdoored.pt")
    statement = json.loads((ward / "test.json").read_text(encoding="utf-8"))
    assert statement["subject"][0]["digest"]["sha256"] == sha256(ward / "out.pt")
    assert statement["predicate"]["result"] == "FAILED"
    assert "check: recovered trigger" in statement["predicate"]["failedTests"]
