"""Files that were damaged at random: whatever comes, one sentence, in good time, in bounded memory, and nothing runs.

    BDSCAN_FUZZ_CASES=50000 python -m tests.test_fuzz      # a quarter of an hour of one core; prints the figures

Ten seeds of every format are mutated: bits, runs of bytes, lengths, truncation, repetition, and pieces of one file in
another. Each case has its number, which makes it again: `python -m tests.test_fuzz 1234` runs that one alone, and
`python -c 'from tests.test_fuzz import *; write_case(*case(1234), Path("case"))'` writes it into a folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import pickle
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from bdscan.facts.problem import Problem
from bdscan.images.source import open_images
from bdscan.load.assembly.tensors import read
from bdscan.load.contents import survey

CASES = int(os.environ.get("BDSCAN_FUZZ_CASES", "300"))
SEEDS = 10  # files of each format
SECONDS = 5  # a case
MEMORY = 8 << 30  # bytes of address space: torch alone maps four
START = 256 << 20  # bytes that a case may take beside twice its file: what a reader allows a small file to unpack to
CHUNK = 50  # cases a process: its peak of memory is that of all cases before
CANARY = Path(tempfile.gettempdir(), "bdscan-fuzz-canary")
_HUNG, _CRASHED, _HUNGRY, _RAN, _REFUSED, _READ = "hang", "traceback", "memory", "ran", "refused", "read"
BAD = (_HUNG, _CRASHED, _HUNGRY, _RAN)


class Calls:
    """Pickles as a call that touches the canary: half of the pickles are infected, and damage may set them free."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {CANARY}",)


def infected(value: dict[str, Any], seed: int) -> dict[str, Any]:
    return value | {"canary": Calls()} if seed % 2 else value


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    width = 2 + seed
    layers = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(width, 4)).eval()


def saved(value: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def tensors(seed: int) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in net(seed).state_dict().items()}


def checkpoint(seed: int) -> bytes:
    values = (infected(tensors(seed), seed), infected({"state_dict": tensors(seed), "epoch": seed}, seed), net(seed))
    return saved(values[seed % len(values)])


def old_checkpoint(seed: int) -> bytes:
    return saved(net(seed) if seed % 3 == 2 else infected(tensors(seed), seed), legacy=True)


def bare(seed: int) -> bytes:
    value = {"weights": [0.5] * seed, "names": ("a", "b"), "n": 10**seed, "x": {1: None, "b": b"bytes"}}
    return pickle.dumps(infected(value, seed), protocol=seed % 6)


def graph(seed: int) -> bytes:
    weight = np.full((4, 48 + seed), 0.5, np.float32)
    nodes = [onnx.helper.make_node("Flatten", ["x"], ["f"]), onnx.helper.make_node("Gemm", ["f", "w"], ["y"], transB=1)]
    sides_of: dict[str, list[str | int | None]] = {"x": ["n", 3, 4, 4], "y": ["n", 4]}
    sides = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in sides_of.items()
    ]
    made = onnx.helper.make_graph(nodes, "g", sides[:1], sides[1:], [onnx.numpy_helper.from_array(weight, "w")])
    model: bytes = onnx.helper.make_model(made, ir_version=9).SerializeToString()
    return model


def script(seed: int) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(net(seed), torch.rand(1, 3, 8, 8)), buffer)
    return buffer.getvalue()


def program(seed: int) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(net(seed), (torch.rand(1, 3, 8, 8),)), buffer)
    return buffer.getvalue()


def pictures(seed: int) -> bytes:
    buffer = io.BytesIO()
    images = np.random.default_rng(seed).integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)
    (np.savez_compressed if seed % 2 else np.savez)(buffer, images=images, labels=np.arange(12) % 4)
    return buffer.getvalue()


def picture_tar(seed: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(8):
            picture = io.BytesIO()
            pixels = np.random.default_rng(seed + number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(picture, ("PNG", "JPEG", "BMP", "WEBP")[seed % 4])
            info = tarfile.TarInfo(f"c{number % 4}/{number}.png")
            info.size = len(picture.getvalue())
            archive.addfile(info, io.BytesIO(picture.getvalue()))
    return buffer.getvalue()


def folder(seed: int) -> bytes:
    """Three files, packed into one so that mutations may cross: `unpacked` takes them apart."""
    state = tensors(seed)
    cut = 1 + seed % 5
    names = list(state)
    parts = {"a.safetensors": names[:cut], "b.safetensors": names[cut:]}
    index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
    files = {"config.json": b'{"num_labels": 4}', "model.safetensors.index.json": json.dumps(index).encode()}
    files |= {file: save({name: state[name] for name in held}) for file, held in parts.items()}
    return BOUNDARY.join(part for name, body in files.items() for part in (name.encode(), body))


BOUNDARY = b"\n--bdscan fuzz boundary--\n"
FORMATS: dict[str, Callable[[int], bytes]] = {
    "zip.pt": checkpoint,
    "old.pt": old_checkpoint,
    "bare.pkl": bare,
    "net.safetensors": lambda seed: save(tensors(seed)),
    "net.onnx": graph,
    "script.pt": script,
    "program.pt2": program,
    "shards": folder,
    "pictures.npz": pictures,
    "pictures.tar": picture_tar,
}


@cache
def seeds() -> dict[str, list[bytes]]:
    """All files that are mutated; an exported program takes a second, so that two of them must do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few = {"program.pt2": 2}
        return {form: [make(seed) for seed in range(few.get(form, SEEDS))] for form, make in FORMATS.items()}


def flip(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def run_of_bytes(data: bytearray, draw: random.Random) -> None:
    at, length = draw.randrange(len(data)), draw.choice((1, 2, 4, 8, 100))
    body = draw.choice((b"\0" * length, b"\xff" * length, draw.randbytes(length)))
    data[at : at + draw.choice((0, length))] = body


def truncate(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(1, len(data) + 1) :]


def repeat(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    data[at:at] = data[at : at + draw.choice((1, 9, 100, 5000))] * draw.choice((1, 2, 50))


def cut_out(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    del data[at : at + draw.choice((1, 4, 30, 1000))]


def length_field(data: bytearray, draw: random.Random) -> None:
    """Four or eight bytes that are a small number become another number."""
    size, form = draw.choice(((2, "<H"), (4, "<I"), (8, "<Q"), (4, ">I")))
    places = [at for at in draw.sample(range(len(data)), min(len(data), 400)) if _small(data[at : at + size], form)]
    if places:
        value = draw.choice((0, 1, 255, 65_535, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1))
        at = draw.choice(places)
        data[at : at + size] = struct.pack(form, value & ((1 << 8 * size) - 1))


def _small(field: bytes | bytearray, form: str) -> bool:
    return len(field) == struct.calcsize(form) and 0 < struct.unpack(form, field)[0] < 1 << 20


def number_in_text(data: bytearray, draw: random.Random) -> None:
    """Of JSON headers and of old pickles."""
    found = list(re.finditer(rb"\d+", data[:100_000]))
    if found:
        one = draw.choice(found)
        data[one.start() : one.end()] = draw.choice((b"0", b"-1", b"4294967296", b"9" * 30, b"1e999", b"NaN", b"[]"))


def splice(data: bytearray, draw: random.Random) -> None:
    other = draw.choice(seeds()[draw.choice(list(FORMATS))])
    start = draw.randrange(len(other))
    at = draw.randrange(len(data))
    length = draw.choice((4, 64, 1000, len(other)))
    data[at : at + draw.choice((0, length))] = other[start : start + length]


def member(data: bytearray, draw: random.Random) -> None:
    """One member of a zip is mutated and packed again, so that the archive around it stays whole."""
    with contextlib.suppress(Exception):  # whatever zipfile makes of an archive that is damaged already
        files = _members(bytes(data))
        name = draw.choice(list(files))
        body = bytearray(files[name] or b"\0")
        draw.choice(PLAIN)(body, draw)
        files[name] = bytes(body)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for each, held in files.items():
                archive.writestr(each, held)
        data[:] = buffer.getvalue()


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist() if info.file_size < 1 << 24}


PLAIN = (flip, run_of_bytes, truncate, repeat, cut_out, length_field, number_in_text, splice)


def case(number: int) -> tuple[str, bytes]:
    """The case of this number, always the same: its format and its bytes."""
    draw = random.Random(number)
    form = list(FORMATS)[number % len(FORMATS)]
    data = bytearray(draw.choice(seeds()[form]))
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        mutation = member if data[:2] == b"PK" and draw.random() < 0.5 else draw.choice(PLAIN)
        mutation(data, draw)
        data = data or bytearray(b"\0")
    return form, bytes(data)


def write_case(form: str, data: bytes, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    if form != "shards":
        (place / form).write_bytes(data)
        return place / form
    parts = data.split(BOUNDARY)
    for name, body in zip(parts[::2], parts[1::2], strict=False):
        with contextlib.suppress(ValueError, OSError):
            (place / Path(name.decode(errors="replace")).name).write_bytes(body)
    return place


def look(form: str, path: Path) -> None:
    """As the program does: a survey, and all tensors; or a listing, and all pictures."""
    if form.startswith("pictures"):
        source = open_images(str(path))
        source.load(source.size or (3, 8, 8))
        return
    contents = survey(path)
    if contents.format != "onnx":
        _ = read(contents).nonfinite


@dataclass(frozen=True)
class Outcome:
    number: int
    what: str
    detail: str = ""
    seconds: float = 0.0


def _too_long(*_: object) -> None:
    raise TimeoutError


def tried(number: int, place: Path) -> Outcome:
    """What comes of one case, in a process that may be spoilt by it."""
    form, data = case(number)
    path = write_case(form, data, place / "case")
    allowed = START + 2 * len(data)
    began, held = time.monotonic(), _peak()
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    what, detail = _READ, ""
    try:
        look(form, path)
    except Problem as problem:
        what, detail = (_REFUSED, "") if "\n" not in problem.message else (_CRASHED, problem.message)
    except TimeoutError:
        what, detail = _HUNG, _where()
    except BaseException:  # whatever else: that is the question
        what, detail = _CRASHED, _where()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if what in (_READ, _REFUSED) and _peak() - held > allowed:
        what, detail = _HUNGRY, f"{(_peak() - held) >> 20} MB for a file of {len(data)} bytes"
    if CANARY.exists():
        CANARY.unlink()
        what = _RAN
    return Outcome(number, what, detail, time.monotonic() - began)


def _where() -> str:
    """The error, and the last lines of ours that led to it."""
    error = sys.exc_info()[1]
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__ if error else None) if "bdscan" in frame.filename
    ]
    last = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-2:]))
    return f"{type(error).__name__}: {str(error)[:80]} at {last}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def work(numbers: list[int]) -> list[Outcome]:
    """A chunk of cases, in a process of its own; one that dies of a case is not missed by the others."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        return [tried(number, Path(place)) for number in numbers]


def outcomes(numbers: list[int]) -> Iterator[Outcome]:
    """In forked processes, which have the seeds and torch already; a watchdog ends those that are past listening."""
    seeds()
    context = multiprocessing.get_context("fork")
    for start in range(0, len(numbers), CHUNK):
        chunk = numbers[start : start + CHUNK]
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(sender, chunk))
        process.start()
        sender.close()
        yield from _received(receiver, process, chunk)


def _send(sender: Any, chunk: list[int]) -> None:
    for number in chunk:
        sender.send(number)
        sender.send(work([number])[0])


def _received(receiver: Any, process: Any, chunk: list[int]) -> Iterator[Outcome]:
    """Of each case its outcome; of one that its process did not survive, that; the rest begins anew."""
    at = chunk[0]
    try:
        for _ in chunk:
            if not receiver.poll(60):
                raise EOFError
            at = receiver.recv()
            if not receiver.poll(3 * SECONDS):
                raise EOFError
            yield receiver.recv()
    except EOFError:
        process.kill()
        process.join()
        how = _HUNG if process.exitcode == -signal.SIGKILL else _CRASHED
        yield Outcome(at, how, f"its process ended with {process.exitcode}")
        yield from outcomes(chunk[chunk.index(at) + 1 :])
    process.join()


@pytest.mark.slow
def test_damaged_files_get_a_sentence_in_good_time() -> None:
    assert [outcome for outcome in outcomes(list(range(CASES))) if outcome.what in BAD] == []


def main(numbers: list[int]) -> None:
    """Prints what came of each, and the bad ones one by one; Ctrl-C ends it with what is known so far."""
    counts: Counter[str] = Counter()
    slowest = 0.0
    with contextlib.suppress(KeyboardInterrupt):
        for outcome in outcomes(numbers):
            counts[outcome.what] += 1
            slowest = max(slowest, outcome.seconds)
            if outcome.what in BAD:
                form = case(outcome.number)[0]
                print(f"{outcome.number} ({form}): {outcome.what}: {outcome.detail}", flush=True)
    print(f"{counts.total():,} cases: " + ", ".join(f"{counts[what]:,} {what}" for what in (_READ, _REFUSED, *BAD)))
    print(f"slowest: {slowest:.1f} s")


if __name__ == "__main__":
    main(list(map(int, sys.argv[1:])) or list(range(CASES)))
