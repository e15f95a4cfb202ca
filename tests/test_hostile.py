"""Files made to hurt: nothing in them runs, and each gets one clear sentence in good time."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import runpy
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from bdscan.facts.finding import Level
from bdscan.facts.problem import COULD_NOT_TELL, Problem
from bdscan.load.assembly.tensors import read
from bdscan.load.contents import Contents, survey

STATE = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "fc.bias": torch.ones(2)}


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


class Infected(nn.Linear):
    def __init__(self, payload: object) -> None:
        super().__init__(2, 2)
        self.payload = payload


class Wakes:
    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["canary"]).touch()


def touch(canary: Path) -> Calls:
    return Calls(os.system, f"touch {canary}")


def saved(value: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def rezip(data: bytes, change: Callable[[zipfile.ZipFile], None] = lambda _: None, **replaced: bytes) -> bytes:
    """The archive again, with members replaced by their last name (dots as underscores) and more of them added."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            leaf = info.filename.rpartition("/")[2].replace(".", "_")
            new.writestr(info.filename, replaced.get(leaf, old.read(info)))
        change(new)
    return out.getvalue()


def wakes(canary: Path) -> bytes:
    sleeper = Wakes()
    sleeper.__dict__["canary"] = str(canary)
    return pickle.dumps(sleeper)


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value.encode())]) + value.encode()


def call(module: str, name: str, *arguments: str) -> bytes:
    """module.name(*arguments), left on the stack."""
    return f"c{module}\n{name}\n(".encode() + b"".join(map(text, arguments)) + b"tR"


def proto(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


def indirect(canary: Path) -> bytes:
    """The strings of STACK_GLOBAL come from the memo."""
    names = text("system") + b"\x94" + b"0" + text("os") + b"\x940"
    return proto(names + b"h\x01h\x00\x93" + text(f"touch {canary}") + b"\x85R")


def computed(canary: Path) -> bytes:
    """The module's name is the result of a call."""
    return proto(call("builtins", "str", "os") + text("system") + b"\x93" + text(f"touch {canary}") + b"\x85R")


def chained(canary: Path) -> bytes:
    """getattr(str, "__class__") and on from there: the result is called."""
    looked_up = b"cbuiltins\ngetattr\n" + call("builtins", "str", "a") + text("format") + b"\x86R"
    return proto(looked_up + text(f"{canary}") + b"\x85R")


def legacy_with(payload: object) -> bytes:
    return saved({**STATE, "extra": payload}, legacy=True)


DANGEROUS: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda canary: saved({**STATE, "x": touch(canary)}),
    "os.system in a legacy file": lambda canary: legacy_with(touch(canary)),  # modelscan: "No issues found"
    "importlib": lambda canary: saved(
        {**STATE, "x": Calls(importlib.import_module, "this")}
    ),  # modelscan, picklescan: 0
    "runpy": lambda canary: saved({**STATE, "x": Calls(runpy.run_path, str(canary.with_suffix(".py")))}),
    "eval": lambda canary: pickle.dumps(Calls(eval, f"open({str(canary)!r}, 'w')")),
    "open": lambda canary: pickle.dumps(Calls(open, str(canary), "w")),
    "bare pickle": lambda canary: pickle.dumps(touch(canary)),
    "protocol 0": lambda canary: pickle.dumps(touch(canary), protocol=0),
    "second bare pickle": lambda canary: pickle.dumps({"a": 1}) + pickle.dumps(touch(canary)),
    "pickle behind the last tensor": lambda canary: saved(STATE, legacy=True) + pickle.dumps(touch(canary)),
    "in a module": lambda canary: saved(Infected(touch(canary))),
    "in a legacy module": lambda canary: saved(Infected(touch(canary)), legacy=True),
    "inst": lambda canary: f"(S'touch {canary}'\nios\nsystem\n.".encode(),
    "obj": lambda canary: b"(cos\nsystem\n" + text(f"touch {canary}") + b"o.",
    "newobj": lambda canary: proto(b"cos\nsystem\n" + text(f"touch {canary}") + b"\x85\x81"),
    "newobj_ex": lambda canary: proto(b"cos\nsystem\n" + text(f"touch {canary}") + b"\x85}\x92"),
    "strings from the memo": indirect,
    "computed name": computed,
    "chained call": chained,
    "python 2 names": lambda canary: proto(call("__builtin__", "execfile", str(canary))),
    "through a module": lambda canary: proto(call("torch.nn.functional", "importlib.import_module", "this")),
    "through torch": lambda canary: proto(call("torch.serialization", "os.system", f"touch {canary}")),
    "numpy's": lambda canary: proto(call("numpy.testing._private.utils", "runstring", "1", "{}")),
    "torch.hub": lambda canary: proto(call("torch.hub", "load", "a/b", "c")),
    "extension code": lambda canary: proto(b"\x82\x01)R"),
    "changed class": lambda canary: proto(b"ctorch.nn.modules.linear\nLinear\nN}" + text("forward") + b"K\x01s\x86b"),
    "as an argument": lambda canary: proto(b"ccollections\ndefaultdict\ncos\ngetcwd\n\x85R"),
    "before the damage": lambda canary: proto(call("os", "system", f"touch {canary}") + b"\xff\xff"),
    "setstate gadget": lambda canary: proto(b"cbuiltins\nobject\n)\x81}" + text("__setstate__") + b"cos\nsystem\nsb"),
    "nested bytes": lambda canary: proto(
        b"ctorch.storage\n_load_from_bytes\n" + pickle.dumps(pickle.dumps(touch(canary)), 4)[2:-1] + b"\x85R"
    ),
    "second member": lambda canary: rezip(
        saved(STATE), lambda z: z.writestr("archive/x.pkl", pickle.dumps(touch(canary)))
    ),
    "no suffix": lambda canary: rezip(saved(STATE), lambda z: z.writestr("archive/x", pickle.dumps(touch(canary)))),
    "zip in a zip": lambda canary: rezip(saved(STATE), lambda z: z.writestr("archive/x", saved({"x": touch(canary)}))),
    "upper case": lambda canary: rezip(
        saved(STATE), lambda z: z.writestr("archive/DATA.PKL", pickle.dumps(touch(canary)))
    ),
}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def look(path: Path) -> Contents:
    """Surveys, and reads what can be read, as the program does."""
    contents = survey(path)
    try:
        read(contents)
    except Problem as problem:
        assert "\n" not in problem.message and "\x1b" not in problem.message
    return contents


@pytest.mark.parametrize("name", DANGEROUS)
def test_what_would_run_is_told_and_does_not_run(name: str, canary: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(DANGEROUS[name](canary))
    began = time.process_time()
    contents = look(path)
    assert max(danger.level for danger in contents.dangers) == Level.BACKDOOR
    assert all(danger.message and "\n" not in danger.message for danger in contents.dangers)
    assert time.process_time() - began < 2
    assert not canary.exists()


@pytest.mark.parametrize("name", ["bare pickle", "protocol 0", "inst", "strings from the memo", "before the damage"])
def test_the_canary_lives(name: str, canary: Path) -> None:
    """The payloads are real: an ordinary unpickler runs them, even those that break off afterwards."""
    with contextlib.suppress(pickle.UnpicklingError):
        pickle.loads(DANGEROUS[name](canary))
    assert canary.exists()


def test_the_weights_beside_a_payload_can_still_be_judged(canary: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(saved({"state_dict": STATE, "x": touch(canary)}))
    contents = survey(path)
    assert any("would call `posix.system` with `'touch" in danger.message for danger in contents.dangers)
    assert all(torch.equal(read(contents).tensors[name], STATE[name]) for name in STATE)
    assert not canary.exists()


def renamed_locally(data: bytes) -> bytes:
    """The local header of the pickle carries another name than the directory."""
    at = data.find(b"archive/data.pkl")
    return data[:at] + b"archive/safe.txt" + data[at + 16 :]


def encrypted(data: bytes) -> bytes:
    at = data.find(b"PK\x01\x02")
    return data[: at + 8] + b"\x01\x00" + data[at + 10 :]


def overlapping(data: bytes) -> bytes:
    """The second member is said to lie where the first one does."""
    first = data.find(b"PK\x01\x02")
    second = data.find(b"PK\x01\x02", first + 4)
    return data[: second + 42] + data[first + 42 : first + 46] + data[second + 46 :]


def hidden(data: bytes) -> bytes:
    """Bytes between the last member and the directory."""
    at = data.find(b"PK\x01\x02")
    end = data.rfind(b"PK\x05\x06") + len(b"hidden" * 9)
    moved = data[:at] + b"hidden" * 9 + data[at:]
    return moved[: end + 16] + struct.pack("<I", at + len(b"hidden" * 9)) + moved[end + 20 :]


def beyond(data: bytes) -> bytes:
    """The last member in the directory claims to be far longer than the file."""
    at = data.rfind(b"PK\x01\x02")
    return data[: at + 20] + struct.pack("<II", 1 << 30, 1 << 30) + data[at + 28 :]


def link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("archive/link")
    info.external_attr = 0o120777 << 16
    archive.writestr(info, "/etc/passwd")


def twice(archive: zipfile.ZipFile) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("archive/data.pkl", pickle.dumps({}))


def bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("archive/data/99", bytes(50 << 20), zipfile.ZIP_DEFLATED)


def foreign_pid() -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("http://example.org", 1) if value == "x" else None

    buffer = io.BytesIO()
    Pickler(buffer).dump({"a": "x"})
    return buffer.getvalue()


SUSPECT: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "user class": (lambda canary: saved({"net": Infected(1)}), "nobody vouches for"),
    "setstate": (wakes, "nobody vouches for"),
    "persistent ids": (lambda _: foreign_pid(), "persistent objects"),
    "bytes behind the last tensor": (lambda _: saved(STATE, legacy=True) + b"\1" * 9, "9 bytes follow"),
    "bytes behind a pickle": (lambda _: pickle.dumps({"a": 1}) + b"\1" * 9, "9 bytes follow"),
    "zeros far behind a pickle": (lambda _: pickle.dumps({"a": 1}) + b"\0" * 9000, "9,000 bytes follow"),
    "encrypted": (lambda _: encrypted(saved(STATE)), "encrypted"),
    "member beyond the end": (lambda _: beyond(saved(STATE)), "beyond the end"),
    "symbolic link": (lambda _: rezip(saved(STATE), link), "symbolic link"),
    "parent folder": (lambda _: rezip(saved(STATE), lambda z: z.writestr("../x", b"1")), "outside"),
    "absolute": (lambda _: rezip(saved(STATE), lambda z: z.writestr("/etc/x", b"1")), "outside"),
    "program": (lambda _: rezip(saved(STATE), lambda z: z.writestr("archive/run.so", b"1")), "program"),
    "bomb": (lambda _: rezip(saved(STATE), bomb), "zip bomb"),
}


def tar_and_pickle() -> bytes:
    """A pickle that is harmless, in a tar header whose archive torch would read instead."""
    header = bytearray(pickle.dumps({"a": 1}).ljust(512, b"\0"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


TWO_READINGS: dict[str, tuple[bytes, str]] = {
    "bytes behind a zip": (saved(STATE) + b"\1" * 9, "9 bytes follow"),
    "bytes between members": (hidden(rezip(saved(STATE))), "belong to no member"),
    "bytes before a zip": (b"PK" + b"hidden" * 9 + saved(STATE), "belong to no member"),
    "twice": (rezip(saved(STATE), twice), "twice"),
    "local header": (renamed_locally(saved(STATE)), "local header"),
    "overlap": (overlapping(saved(STATE)), "local header"),
    "tar and pickle": (tar_and_pickle(), "at once"),
}


@pytest.mark.parametrize("name", TWO_READINGS)
def test_what_readers_would_see_differently_is_a_backdoor(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    data, said = TWO_READINGS[name]
    path.write_bytes(data)
    dangers = look(path).dangers
    assert any(said in danger.message and danger.level == Level.BACKDOOR for danger in dangers), dangers


@pytest.mark.parametrize("data", [saved(STATE), saved(STATE, legacy=True), pickle.dumps({"a": 1})])
def test_a_file_filled_up_with_zeros_is_only_noted(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(data + b"\0" * 9)
    (danger,) = look(path).dangers
    assert danger.level == Level.NOTE and "9 bytes follow" in danger.message


@pytest.mark.parametrize("name", SUSPECT)
def test_tricks_are_suspicious(name: str, canary: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    make, said = SUSPECT[name]
    path.write_bytes(make(canary))
    began = time.process_time()
    dangers = look(path).dangers
    assert any(said in danger.message and danger.level == Level.SUSPECT for danger in dangers), dangers
    assert time.process_time() - began < 2
    assert not canary.exists()


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def entry(start: int, stop: int, shape: str = "[1]") -> str:
    return f'{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{stop}]}}'


def plain_safetensors() -> bytes:
    return safetensors(f'{{"a":{entry(0, 4)}}}'.encode(), bytes(4))


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "garbage": (bytes(range(7, 250)) * 40, "no model file"),
    "text": (b"import os\nprint('hello')\n" * 9, "no model file"),
    "web page": (b"<!DOCTYPE html><html></html>", "web page"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "gzip"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n", "git-LFS pointer"),
    "truncated zip": (saved(STATE)[:-300], "truncated"),
    "truncated legacy": (saved(STATE, legacy=True)[:-3], "ends before its last tensor"),
    "truncated legacy pickle": (saved(STATE, legacy=True)[:200], "breaks off"),
    "truncated pickle": (pickle.dumps({"a": [1] * 99})[:-9], "breaks off"),
    "truncated safetensors": (plain_safetensors()[:-1], "beyond the end"),
    "zip of something else": (rezip(saved(STATE)).replace(b"data.pkl", b"data.txt"), "not one that PyTorch wrote"),
    "header too long": (struct.pack("<Q", 1 << 40) + b'{"a":1}', "declares"),
    "header not JSON": (safetensors(b'{"a":'), "not readable JSON"),
    "header nested": (safetensors(b'{"a":' + b"[" * 100_000), "not readable JSON"),
    "tensor twice": (safetensors(f'{{"a":{entry(0, 4)},"a":{entry(0, 4)}}}'.encode(), bytes(4)), "twice"),
    "overlapping tensors": (safetensors(f'{{"a":{entry(0, 4)},"b":{entry(2, 6)}}}'.encode(), bytes(6)), "overlaps"),
    "hole": (safetensors(f'{{"a":{entry(4, 8)}}}'.encode(), bytes(8)), "gap"),
    "bytes behind safetensors": (plain_safetensors() + b"12", "follow its last tensor"),
    "shape that does not fit": (safetensors(f'{{"a":{entry(0, 4, "[99]")}}}'.encode(), bytes(4)), "shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_model_gets_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    data, said = REFUSED[name]
    path.write_bytes(data)
    began = time.process_time()
    with pytest.raises(Problem) as caught:
        survey(path)
    assert said in caught.value.message
    assert str(path) in caught.value.message and "\n" not in caught.value.message
    assert caught.value.status == COULD_NOT_TELL
    assert time.process_time() - began < 5


def test_missing_files_folders_and_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "none.pt", "no such file"), (tmp_path, "holds no"), (tmp_path / "pipe", "neither")):
        with pytest.raises(Problem, match=said):
            survey(path)


def huge(stride: tuple[int, ...], size: tuple[int, ...], count: int = 26) -> bytes:
    """A state dict that says more than its 26 values hold."""
    changed = saved({"a": torch.zeros(2, 13)})
    with zipfile.ZipFile(io.BytesIO(changed)) as archive:
        body = archive.read("archive/data.pkl")
    old = b"K\x02K\r\x86q\x08K\rK\x01\x86"
    assert old in body and b"K\x1at" in body
    number: Callable[[int], bytes] = lambda n: b"\x8a\x06" + n.to_bytes(6, "little")  # noqa: E731
    made = number(size[0]) + number(size[1]) + b"\x86q\x08" + number(stride[0]) + number(stride[1]) + b"\x86"
    return rezip(changed, data_pkl=body.replace(old, made).replace(b"K\x1at", number(count) + b"t"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (huge((1 << 20, 1), (2560, 1 << 20), 2560 << 20), "declares a tensor storage of 10,737,418,240 bytes"),
        (huge((1 << 20, 1), (2560, 1 << 20)), "2,684,354,560 values where the file holds 26"),
        (huge((0, 0), (2560, 1 << 20)), "where the file holds 26"),
        (huge((1 << 40, 1), (2, 2)), "where the file holds 26"),
    ],
    ids=["storage", "shape", "stride zero", "stride beyond"],
)
def test_a_tensor_may_not_declare_more_than_the_file_holds(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    with pytest.raises(Problem, match=said):
        read(survey(path))


def test_views_that_together_outgrow_the_file_are_refused(tmp_path: Path) -> None:
    one = torch.zeros(1 << 18)
    torch.save({str(index): one for index in range(20)}, tmp_path / "model.pt")  # 20 MB of names for 1 MB of values
    shared = read(survey(tmp_path / "model.pt"))
    assert len({tensor.data_ptr() for tensor in shared.tensors.values()}) == 1
    torch.save({str(index): one[index:] for index in range(20)}, tmp_path / "model.pt")
    with pytest.raises(Problem, match="far more than the file holds"):
        read(survey(tmp_path / "model.pt"))


PEAK = """
import re, sys
from pathlib import Path
from bdscan.load.contents import survey
from bdscan.load.assembly.tensors import read
from bdscan.facts.problem import Problem
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
before = peak()
for path in sys.argv[1:]:
    try:
        read(survey(path))
    except Problem as problem:
        print(problem.message)
print(peak() - before)
"""


def packed_zeros(size: int) -> bytes:
    """A checkpoint whose one tensor is all zeros, deflated."""
    state, packed = saved({"a": torch.zeros(size // 4)}), io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(state)) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return packed.getvalue()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_bombs_stay_within_bounded_memory(tmp_path: Path) -> None:
    inner = pickle.dumps([None] * 100_000)
    again = b"B" + struct.pack("<I", len(inner)) + inner + b"\x940"  # memoised, so that all may refer to it
    bombs = {
        "zeros.pt": packed_zeros(150 << 20),
        "memo.pt": b"\x80\x04Nr\xff\xff\xff\x7f" + b"\x8e" + (1 << 40).to_bytes(8, "little"),
        "hash.pt": proto(b"}K\x01" + b"2\x86" * 5000 + b"K\x01s"),  # hashing the key would take 2 ** 5000 steps
        "again.pt": proto(again + b"ctorch.storage\n_load_from_bytes\n\x940(" + b"h\x01h\x00\x85R" * 50_000 + b"l"),
    }
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", PEAK, *(str(tmp_path / name) for name in bombs)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    *said, grown = out.stdout.splitlines()
    assert len(said) == len(bombs) and "zip bomb" in said[0] and "breaks off" in said[1]
    assert int(grown) < 80, "MB"


def test_numbers_that_are_none_are_named(tmp_path: Path) -> None:
    state = {
        "good": torch.ones(3),
        "bad": torch.tensor([1.0, float("nan")]),
        "worse": torch.tensor([float("-inf")]).half(),
    }
    torch.save(state, tmp_path / "model.pt")
    assert read(survey(tmp_path / "model.pt")).nonfinite == ("bad", "worse")


def test_the_suspect_file_is_never_written(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    for tensor in read(survey(tmp_path / "model.pt")).tensors.values():
        tensor.zero_()
    assert (tmp_path / "model.pt").read_bytes() == before


def whole_files() -> list[bytes]:
    net = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 2, 2), norm=nn.BatchNorm2d(2)))
    return [
        saved(STATE),
        saved(STATE, legacy=True),
        saved(net),
        pickle.dumps({"a": [1, 2.0, (3,)]}),
        plain_safetensors(),
    ]


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_a_problem_and_never_a_crash(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from(whole_files())))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
    path = tmp_path / "model.pt"
    path.write_bytes(whole or b"\0")
    try:
        _ = read(survey(path)).nonfinite
    except Problem as problem:
        assert problem.status == COULD_NOT_TELL


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "model.pt").write_bytes(saved(STATE))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(Problem, match="Permission denied"):
        survey(tmp_path / "model.pt")


def test_safetensors_metadata_that_is_no_text(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "good.safetensors", metadata={"format": "pt"})
    assert survey(tmp_path / "good.safetensors").dangers == ()
    (tmp_path / "odd.safetensors").write_bytes(
        safetensors(f'{{"__metadata__":{{"x":[1]}},"a":{entry(0, 4)}}}'.encode(), bytes(4))
    )
    assert survey(tmp_path / "odd.safetensors").dangers[0].level == Level.SUSPECT
