"""The probe that looks at the file itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bdscan.facts.finding import Finding, Level
from bdscan.load.contents import survey
from bdscan.load.pickle.allowlist import Trust, trust_in
from bdscan.load.pickle.records import GlobalName
from bdscan.method import registry
from bdscan.method.case import FileCase
from bdscan.probes.artifact import Artifact

WEIGHTS = {"a.weight": torch.ones(3), "a.bias": torch.ones(3)}


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


def found(path: Path) -> list[Finding]:
    return list(Artifact()(FileCase(contents=survey(path))))


def test_a_plain_state_dict_earns_one_note(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "m.pt")
    (finding,) = found(tmp_path / "m.pt")
    assert finding.level == Level.NOTE
    assert finding.message == "nothing runs when this pytorch zip file is loaded: 1 pickle, only tensor rebuilds"
    torch.save(WEIGHTS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert found(tmp_path / "old.pt")[0].message.endswith("5 pickles, only tensor rebuilds")


def test_safetensors_hold_nothing_to_run(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "m.safetensors")
    (finding,) = found(tmp_path / "m.safetensors")
    assert finding.level == Level.NOTE and "no pickle" in finding.message


def test_a_whole_net_of_known_layers_is_told_but_not_condemned(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), tmp_path / "m.pt")
    findings = found(tmp_path / "m.pt")
    assert {finding.level for finding in findings} == {Level.NOTE}
    assert "`torch.nn.modules.linear.Linear`" in findings[0].message
    assert findings[-1].message.endswith("known names only")


def test_a_payload_is_a_backdoor_and_comes_first(tmp_path: Path) -> None:
    torch.save({**WEIGHTS, "net": nn.Linear(2, 2), "x": Payload()}, tmp_path / "m.pt")
    findings = found(tmp_path / "m.pt")
    assert findings[0].level == Level.BACKDOOR
    assert findings[0].message.startswith("loading it would call `posix.system` with `'true'` (")
    assert not any("nothing runs" in finding.message for finding in findings)


def test_what_the_file_says_is_shown_as_data(tmp_path: Path) -> None:
    """Names and arguments are the attacker's text: no control characters, no backticks, no length without end."""
    name = b"os\x1b[31m`" + b"x" * 500
    (tmp_path / "m.pt").write_bytes(b"\x80\x02c" + name + b"\nsys\xe2\x80\xaetem\nX\x04\x00\x00\x00a`\nb\x85R.")
    for finding in found(tmp_path / "m.pt"):
        assert finding.message.isascii() and finding.message.isprintable()
        assert finding.message.count("`") % 2 == 0 and len(finding.message) < 400


def test_a_file_is_surveyed_without_torch(tmp_path: Path) -> None:
    torch.save({**WEIGHTS, "x": Payload()}, tmp_path / "m.pt")
    code = (
        "import sys\nfrom bdscan.load.contents import survey\nfrom bdscan.method.case import FileCase\n"
        "from bdscan.probes.artifact import Artifact\n"
        "assert list(Artifact()(FileCase(contents=survey(sys.argv[1]))))\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.pt")], check=True, timeout=30)


def test_a_checkpoint_of_forty_five_megabytes_takes_half_a_second(tmp_path: Path) -> None:
    torch.save({str(index): torch.rand(100_000) for index in range(112)}, tmp_path / "m.pt")
    began = time.process_time()
    found(tmp_path / "m.pt")
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("torch._utils _rebuild_tensor_v2", Trust.PLAIN),
        ("torch FloatStorage", Trust.PLAIN),
        ("torch bfloat16", Trust.PLAIN),
        ("collections OrderedDict", Trust.PLAIN),
        ("torchvision.models.resnet ResNet", Trust.HARMLESS),
        ("timm.models.vision_transformer VisionTransformer", Trust.HARMLESS),
        ("numpy._core.multiarray scalar", Trust.HARMLESS),
        ("numpy.dtypes Float64DType", Trust.HARMLESS),
        ("collections.abc Mapping", Trust.HARMLESS),
        ("sklearn.preprocessing._label LabelEncoder", Trust.HARMLESS),
        ("torchvision.transforms.functional InterpolationMode", Trust.HARMLESS),
        ("torchvision.transforms.functional Image", Trust.UNKNOWN),  # a module that it imported
        ("torch float_power", Trust.UNKNOWN),  # a function by the name of a type
        ("__torch__.net Net", Trust.UNKNOWN),
        ("timm.models._hub load_state_dict_from_hf", Trust.UNKNOWN),
        ("mine Net", Trust.UNKNOWN),
        ("__main__ Net", Trust.UNKNOWN),
        ("os system", Trust.DANGEROUS),
        ("_pyrepl.pager pipe_pager", Trust.DANGEROUS),  # of Python 3.13
        ("imp load_source", Trust.DANGEROUS),  # of Python before 3.12
        ("commands getoutput", Trust.DANGEROUS),  # of Python 2
        ("collections abc.sys.modules", Trust.DANGEROUS),
        ("torch load", Trust.DANGEROUS),
        ("torch.hub load", Trust.DANGEROUS),
        ("torch.jit load", Trust.DANGEROUS),
        ("torch.storage _load_from_bytes", Trust.HARMLESS),
        ("torch.fx.graph_module reduce_graph_module", Trust.DANGEROUS),
        ("torch.nn.modules.module functools.partial", Trust.DANGEROUS),
        ("torch.nn Linear.__init__.__globals__", Trust.DANGEROUS),
        ("builtins getattr", Trust.HARMLESS),
        ("operator attrgetter", Trust.DANGEROUS),
        ("pip main", Trust.DANGEROUS),
    ],
)
def test_trust(name: str, level: Trust) -> None:
    assert trust_in(GlobalName(*name.split())) == level


def test_the_manual_says_what_a_reader_needs() -> None:
    manual = registry.manual("probes", "artifact")
    assert registry.find("probes", "artifact") is Artifact
    for heading in ("What it measures", "Why it shows a backdoor", "When it misleads", "Reference"):
        assert f"\n{heading}\n" in manual
