"""Pickles written opcode by opcode, with payloads that only touch a file."""

from __future__ import annotations

import struct
from pathlib import Path

PROTO = b"\x80\x04"
STOP = b"."
POP = b"0"
NONE = b"N"
EMPTY_DICT = b"}"
TUPLES = (b")", b"\x85", b"\x86", b"\x87")


def text(value: str) -> bytes:
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data if len(data) < 256 else b"X" + struct.pack("<I", len(data)) + data


def data(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def tuple_of(*items: bytes) -> bytes:
    return b"".join(items) + TUPLES[len(items)] if len(items) < len(TUPLES) else b"(" + b"".join(items) + b"t"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    """module.attribute(*arguments), left on the stack."""
    return called(name(module, attribute), *arguments)


def get(thing: bytes, attribute: str) -> bytes:
    return call("builtins", "getattr", thing, text(attribute))


def dict_of(**items: bytes) -> bytes:
    return EMPTY_DICT + b"(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def pickled(*body: bytes) -> bytes:
    return PROTO + b"".join(body) + STOP


def before(payload: bytes, pickle: bytes) -> bytes:
    """The pickle again, with the payload at its beginning, whose result is thrown away."""
    return PROTO + payload + POP + pickle[2:]


def shell(canary: Path) -> str:
    return f"touch '{canary}'"


def system(canary: Path) -> bytes:
    """A call of os.system that touches the canary."""
    return call("os", "system", text(shell(canary)))


def python(canary: Path) -> str:
    """An expression that touches the canary."""
    return f"open({str(canary)!r}, 'w')"


def path(canary: Path) -> bytes:
    """The canary's path, as an object."""
    return call("pathlib", "PosixPath", text(str(canary)))
