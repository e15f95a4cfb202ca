"""What is vouched for by name is vouched for in honest company only."""

from __future__ import annotations

import io
import pickle
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bdscan.facts.deadline import OutOfTime, within
from bdscan.facts.finding import Level
from bdscan.load.danger import Danger
from bdscan.load.pickle.effects import dangers, nested_bytes
from bdscan.load.pickle.opcodes import follow_one
from bdscan.load.pickle.records import PickleTrace


def text(value: str) -> bytes:
    return pickle.BINUNICODE + len(value.encode()).to_bytes(4, "little") + value.encode()


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + pickle.STACK_GLOBAL


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def new(kind: bytes) -> bytes:
    return kind + b")\x81"


def table(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def followed(data: bytes) -> PickleTrace:
    """The one pickle that the bytes are."""
    trace = follow_one(data, 0, len(data))
    assert trace.end == len(data)
    return trace


def found(body: bytes) -> list[Danger]:
    data = b"\x80\x04" + body + b"."
    trace = followed(data)
    assert not trace.broken
    return list(dangers(trace, "here"))


GETATTR = name("builtins", "getattr")
REBUILD = name("torch._tensor", "_rebuild_from_type_v2")
PATH = call(name("pathlib", "PosixPath"), text("x"))
TOUCH = call(GETATTR, PATH, text("touch"))
TENSOR = name("torch._utils", "_rebuild_tensor_v2")
DTYPE = call(name("numpy", "dtype"), text("O8"), b"\x89", b"\x88")
HOOKS = call(name("collections", "OrderedDict"))

TRAPS: dict[str, bytes] = {
    "a method of a known object": TOUCH,
    "a method, called by a rebuilding function": call(REBUILD, TOUCH, name("builtins", "str"), b")", b"}"),
    "getattr, called by a rebuilding function": call(REBUILD, GETATTR, name("builtins", "dict"), b")", b"N"),
    "getattr, handed on and never called here": table(function=GETATTR),
    "a constructor of file storages": call(GETATTR, name("torch.storage", "UntypedStorage"), text("from_file")),
    "a random generator that calls": call(name("numpy.random._pickle", "__generator_ctor"), text("x"), TOUCH),
    "a random generator of any class": call(name("numpy.random._pickle", "__bit_generator_ctor"), name("mine", "Net")),
    "an encoding that imports": call(name("_codecs", "encode"), text("x"), text("mine")),
    "a file's bytes that are computed": call(
        name("torch.storage", "_load_from_bytes"), call(name("builtins", "bytes"))
    ),
    "the loader of bytes as a default": call(
        name("collections", "defaultdict"), name("torch.storage", "_load_from_bytes")
    ),
    "a number from an address": call(name("numpy.core.multiarray", "scalar"), DTYPE, b"C\x08" + b"a" * 8),
    "a shared object that is changed": call(name("logging", "getLogger")) + table(disabled=b"\x88") + b"b",
    "a method that the unpickler calls": new(name("types", "SimpleNamespace"))
    + table(__setstate__=name("torch.nn.functional", "relu"))
    + b"b",
    "another class for an object that is there": new(name("types", "SimpleNamespace"))
    + b"N"
    + table(__class__=name("torch.nn.modules.linear", "Linear"))
    + b"\x86b",
    "a result that is called": call(call(name("functools", "partial"), name("torch.nn.functional", "relu"))),
    "other weights behind the rebuilt ones": call(TENSOR, b"N", b"K\x00", b")", b")") + b"(NNNNtb",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_known_name_in_bad_company_is_dangerous(trap: str) -> None:
    assert max(danger.level for danger in found(TRAPS[trap])) == Level.BACKDOOR


ODD: dict[str, tuple[bytes, str]] = {
    "a shared type that is changed": (
        call(name("numpy", "dtype"), text("f8"), b"\x89", b"\x89") + b"(K\x03" + text("<") + b"NNNK\x00K\x00K\x00tb",
        "as no model's",
    ),
    "hooks": (
        new(name("torch.nn.modules.linear", "Identity"))
        + table(
            _forward_hooks=HOOKS
            + b"K\x01"
            + call(name("functools", "partial"), name("torch.nn.functional", "relu"))
            + b"s"
        )
        + b"b",
        "a function of its own into a layer",
    ),
    "another forward": (
        new(name("torch.nn.modules.linear", "Identity")) + table(forward=name("torch.nn.functional", "relu")) + b"b",
        "a function of its own into a layer",
    ),
    "hooks of a tensor": (call(TENSOR, b"N", b"K\x00", b")", b")", b"\x89", HOOKS + b"K\x01K\x01s"), "as no model's"),
    "other data": (
        call(name("torch._utils", "_rebuild_parameter_with_state"), call(TENSOR), b"\x88", HOOKS, table(data=b"N")),
        "as no model's",
    ),
    "a layer that is constructed": (
        call(name("torch.nn.modules.linear", "Linear"), b"K\x02", b"K\x02"),
        "as no model's",
    ),
    "memory": (call(name("builtins", "bytes"), b"J\xff\xff\xff\x7f"), "as no model's"),
    "the code of no archive": (name("__torch__.net", "Net"), "nobody vouches"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_no_file_needs_is_suspicious(case: str) -> None:
    body, said = ODD[case]
    assert any(said in danger.message and danger.level == Level.SUSPECT for danger in found(body))


def test_the_code_of_an_archive_is_its_own() -> None:
    data = b"\x80\x02" + b"c__torch__.net\nNet\n" + b"."
    trace = followed(data)
    assert not list(dangers(trace, "here", torchscript=True))


def test_what_is_changed_after_it_was_given_away_is_told() -> None:
    """OrderedDict copies the list: what comes later is seen by whoever reads the list, and not by torch."""
    late = name("collections", "OrderedDict") + b"]\x94\x85R" + b"0h\x00(" + text("a") + b"K\x01tao" + b"0N"
    assert any("given away" in danger.message for danger in found(late.replace(b"ao", b"a")))


def test_a_name_across_the_end_of_a_frame_is_told() -> None:
    """C's unpickler drops the rest of the frame and reads the name from the next line: `os` behind a harmless one."""
    frame = b"ccollections\nOrd"
    data = b"\x80\x04\x95" + len(frame).to_bytes(8, "little") + frame + b"eredDict\n."
    trace = followed(data)
    assert any("end of a frame" in danger.message and danger.level == Level.BACKDOOR for danger in dangers(trace, ""))


@pytest.mark.parametrize(
    "value",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU()).state_dict,
        nn.utils.spectral_norm(nn.Linear(2, 2)),
        nn.Buffer(torch.ones(2)),
        {
            "net": nn.Linear(2, 2),
            "schedule": torch.optim.lr_scheduler.OneCycleLR(torch.optim.SGD(nn.Linear(2, 2).parameters()), 0.1, 9),
        },
        {"a": np.arange(3), "o": np.array(["a", None], dtype=object), "g": np.random.default_rng(0)},
    ],
    ids=["a bound method", "spectral norm", "a buffer", "a schedule", "numpy"],
)
def test_honest_files_hold_nothing_above_a_note(value: object) -> None:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(buffer) as archive:
        member = next(each for each in archive.namelist() if each.endswith("/data.pkl"))
        trace = followed(archive.read(member))
    assert not trace.broken
    assert all(danger.level == Level.NOTE for danger in dangers(trace, ""))


@pytest.mark.parametrize("protocol", range(6))
def test_bytes_that_are_to_be_loaded_are_found_in_every_protocol(protocol: int) -> None:
    trace = followed(pickle.dumps({"w": torch.ones(2)}, protocol))
    (packed,) = nested_bytes(trace)
    assert packed[:2] == b"\x80\x02"
    assert all(danger.level == Level.NOTE for danger in dangers(trace, ""))


BOMBS: dict[str, bytes] = {
    "states put into one object": b"}("
    + b"".join(b"J" + i.to_bytes(4, "little") + b"N" for i in range(20_000))
    + b"u\x94"
    + call(name("collections", "OrderedDict"))
    + b"h\x00b" * 20_000,
    "sets": b"\x8f" * 1_900_000,
    "names": b"".join(name(f"m{i}", "n") + b"0" for i in range(30_000)) + b"N",
    "one long name": text("a." * 50_000)
    + b"\x940"
    + b"".join(b"h\x00" + text(f"n{i}") + b"\x930" for i in range(2_500))
    + b"N",
    "steps": b"N0" * 1_600_000 + b"N",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_expands_is_given_up_in_time(bomb: str) -> None:
    data = b"\x80\x04" + BOMBS[bomb] + b"."
    with within(10, time.monotonic()):
        trace = follow_one(data, 0, len(data))
        assert any(danger.level >= Level.SUSPECT for danger in dangers(trace, ""))


def test_the_deadline_holds_inside_a_pickle() -> None:
    data = b"\x80\x04" + b"N0" * 1_000_000 + b"N."
    with pytest.raises(OutOfTime), within(0, 0.0):
        follow_one(data, 0, len(data))


HIDDEN: dict[str, bytes] = {  # C's unpickler goes on where a reader by the book stops
    "a read-only buffer": b"\x80\x05C\x01a\x980",
    "a number that ends with a NUL": b"\x80\x04I5\x00x\n0",
    "a fraction that ends with a NUL": b"\x80\x04F1.0\x00x\n0",
    "two million steps": b"\x80\x04" + b"N0" * 1_000_100,
}


@pytest.mark.parametrize("before", HIDDEN)
def test_what_stands_behind_an_odd_opcode_is_found(before: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    payload: Callable[[str], bytes] = lambda path: call(name("posix", "system"), text(f"touch {path}"))  # noqa: E731
    data = HIDDEN[before] + payload(str(canary)) + b"."
    trace = followed(data)
    assert [danger.message for danger in dangers(trace, "") if re.search("posix.system.*touch", danger.message)]
    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists()  # the payload is real
