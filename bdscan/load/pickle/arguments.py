"""What honest files give to the names that are vouched for: one question about a call for each way of calling."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from bdscan.load.pickle.records import CallRecord, GlobalName, PersistentId, bytes_of, mapping, named

_LITERALS = (str, bytes, int, float, complex, bool, type(None))
_MAX_PARTS = 10_000  # of one call's arguments that are looked at; a list of class names is about a thousand
_LATIN = frozenset({"latin1", "latin-1", "iso-8859-1", "utf-8", "utf8", "ascii"})  # any other name imports a module
_BASES = frozenset({"object", "dict", "list", "tuple", "set", "frozenset", "int", "float", "complex", "str", "bytes"})
_DEFAULTS = _BASES | {"OrderedDict", "defaultdict", "_refresh_per_optimizer_state"}
_CONSTANT = re.compile(r"[A-Z][A-Z0-9_]*")  # of a class: members of enumerations were pickled so
_BOUND = frozenset({"state_dict", "parameters", "named_parameters", "modules", "children"})  # parentheses forgotten
_ATTRIBUTES = frozenset(  # of classes, where functions are kept
    {
        ("torch.optim.lr_scheduler.OneCycleLR", "_annealing_cos"),
        ("torch.optim.lr_scheduler.OneCycleLR", "_annealing_linear"),
    }
)
_OBJECT_FLAGS, _TEXT_FLAGS = 63, 8  # of numpy types: of Python objects, of text
_TENSOR_NAMES = frozenset({"data", "real", "imag", "grad", "names", "requires_grad", "_backward_hooks", "_base"})
_PART_MODULES = frozenset({"torch._utils", "torch._tensor", "torch.tensor", "torch.nn.parameter"})
_PARTS = frozenset(
    {"torch.Size", "torch.device", "torch.storage._load_from_bytes", "torch.serialization._get_layout"}
    | {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
)


def anything(call: CallRecord) -> bool:
    """The function gives back what it is given, and does nothing else with it."""
    return isinstance(call.arguments, tuple)


def nothing(call: CallRecord) -> bool:
    return call.arguments == ()


def none(call: CallRecord) -> bool:
    return call.arguments == (None,)


def one_value(call: CallRecord) -> bool:
    """An enumeration looks its members up by it."""
    return isinstance(call.arguments, tuple) and len(call.arguments) == 1


def nothing_but_literals(call: CallRecord) -> bool:
    return isinstance(call.arguments, tuple) and _made_of(call.arguments, lambda part: False)


def object_of_class(call: CallRecord) -> bool:
    """Made without its constructor, or by one that is given nothing."""
    return nothing(call) or (call.new and nothing_but_literals(call))


def literals_or_records(call: CallRecord) -> bool:
    """Literals, and results of calls to the same module: a time with its zone."""

    def of_same_module(part: object) -> bool:
        return _bytes_record(part) or (isinstance(part, CallRecord) and _module(part.maker) == _module(call.maker))

    return isinstance(call.arguments, tuple) and _made_of(call.arguments, of_same_module)


def contents(call: CallRecord) -> bool:
    """One container that stands in the file, whatever lies in it: it is copied, nothing in it is called."""
    return isinstance(call.arguments, tuple) and len(call.arguments) <= 1 and all(map(_container, call.arguments))


def contents_and_size(call: CallRecord) -> bool:
    arguments = call.arguments
    return isinstance(arguments, tuple) and all(_container(part) or type(part) is int for part in arguments)


def default_and_contents(call: CallRecord) -> bool:
    """A class of containers or numbers, called for missing keys."""
    arguments = call.arguments
    if not isinstance(arguments, tuple) or not all(map(_container, arguments[1:])):
        return False
    return all(part is None or _name(part) in _DEFAULTS for part in arguments[:1])


def bytes_of_text(call: CallRecord) -> bool:
    """Bytes, or text in a harmless encoding; a number would ask for as many bytes."""
    return nothing(call) or latin_text(call) or packed_bytes(call)


def latin_text(call: CallRecord) -> bool:
    arguments = call.arguments
    if not isinstance(arguments, tuple) or len(arguments) != 2:
        return False
    text, encoding = arguments
    return isinstance(text, str) and isinstance(encoding, str) and encoding.lower() in _LATIN


def tensor_parts(call: CallRecord) -> bool:
    """Storages, shapes, types and other tensors; no hooks."""
    return isinstance(call.arguments, tuple) and _made_of(call.arguments, _tensor_part)


def typed_tensor(call: CallRecord) -> bool:
    """A function that rebuilds tensors, a class, the function's arguments, and names of the user's own."""
    arguments = call.arguments
    if not isinstance(arguments, tuple) or len(arguments) != 4:
        return False
    function, kind, inner, state = arguments
    rebuilds = isinstance(function, GlobalName) and function.module == "torch._utils"
    known = isinstance(kind, GlobalName) and _name(function).startswith("_rebuild_")
    return rebuilds and known and _harmless_names(state) and tensor_parts(CallRecord(function, inner))


def parameter_with_names(call: CallRecord) -> bool:
    """A tensor, whether it wants a gradient, its hooks, and names of the user's own."""
    arguments = call.arguments
    if not isinstance(arguments, tuple) or len(arguments) != 4:
        return False
    return _harmless_names(arguments[3]) and tensor_parts(CallRecord(call.maker, arguments[:3]))


def _harmless_names(state: object) -> bool:
    """Attributes that mean nothing to torch: `data` would be other weights than those that were rebuilt."""
    if state is None or isinstance(state, tuple):
        return all(map(_harmless_names, state or ()))
    names = mapping(state)
    return names is not None and all(
        isinstance(name, str) and not name.startswith("__") and name not in _TENSOR_NAMES for name in names
    )


def packed_bytes(call: CallRecord) -> bool:
    """Bytes that stand in the file, so that they can be followed."""
    return call.arguments == (call.first,) and bytes_of(call.first) is not None


def class_and_base(call: CallRecord) -> bool:
    arguments = call.arguments
    if not isinstance(arguments, tuple) or len(arguments) != 3:
        return False
    kind, base, state = arguments
    return (
        isinstance(kind, GlobalName)
        and _module(base) == "builtins"
        and _name(base) in _BASES
        and (isinstance(state, _LITERALS) or _container(state))
    )


def named_class(call: CallRecord) -> bool:
    return named(call.first) is not None


named_function = named_class


def known_attribute(call: CallRecord) -> bool:
    """A constant of a class, a function that a class is known to keep, or a net's method whose call was forgotten."""
    if not isinstance(call.arguments, tuple) or len(call.arguments) != 2:
        return False
    target, attribute = call.arguments
    if not isinstance(attribute, str):
        return False
    if isinstance(target, CallRecord):
        return attribute in _BOUND and named(target.maker) is not None and (target.new or _rebuilt(target))
    if not isinstance(target, GlobalName):
        return False
    return bool(_CONSTANT.fullmatch(attribute)) or (str(target), attribute) in _ATTRIBUTES


def number_type(call: CallRecord) -> bool:
    """A type of numbers, text or objects by its name, made anew: a state would change the one that all share."""
    arguments = call.arguments
    if not isinstance(arguments, tuple) or not arguments or not all(isinstance(part, int) for part in arguments[1:]):
        return False
    name = arguments[0]
    if not isinstance(name, str):
        return _module(name) == "numpy" and call.state is None
    objects = name.lstrip("<>|=").startswith("O")
    made_anew = bool(arguments[2:] and arguments[2])
    return call.state is None or (made_anew and _usual_type(call.state, objects))


def _usual_type(state: object, objects: bool) -> bool:
    """Without parts, and with the flags that numpy writes: it believes those, and others make addresses of bytes."""
    if not isinstance(state, tuple) or len(state) < 8 or any(part is not None for part in state[2:5]):
        return False
    return state[7] in ((_OBJECT_FLAGS,) if objects else (0, _TEXT_FLAGS))


def array_to_be(call: CallRecord) -> bool:
    """An empty numpy array, to be filled by its state."""
    return (
        str(call.first) == "numpy.ndarray"
        and isinstance(call.arguments, tuple)
        and _made_of(call.arguments[1:], lambda part: _name(part) == "encode" or _bytes_record(part))
    )


def number_in_bytes(call: CallRecord) -> bool:
    """A numpy number: what counts as an object would be read as an address."""
    arguments = call.arguments
    if not isinstance(arguments, tuple) or len(arguments) != 2:
        return False
    return _of_numbers(arguments[0]) and (isinstance(arguments[1], bytes | str) or _bytes_record(arguments[1]))


def array_in_bytes(call: CallRecord) -> bool:
    arguments = call.arguments
    if not isinstance(arguments, tuple) or len(arguments) < 3 or bytes_of(arguments[0]) is None:
        return False
    return _of_numbers(arguments[1]) and _made_of(arguments[2:], lambda part: False)


def random_bits(call: CallRecord) -> bool:
    """The generator's own constructors and the names of its kinds: they call what they are given."""
    arguments = call.arguments
    return isinstance(arguments, tuple) and all(map(_of_random_bits, arguments))


def _of_random_bits(part: object) -> bool:
    maker = part.maker if isinstance(part, CallRecord) else part
    return isinstance(part, str) or (
        isinstance(maker, GlobalName)
        and re.fullmatch(r"numpy\.random\._(pickle|mt19937|pcg64|philox|sfc64)", maker.module) is not None
    )


def _made_of(values: Iterable[object], accepts: Callable[[object], bool]) -> bool:
    """Literals, plain containers of them and what is accepted, all the way down."""
    waiting, seen, looked_at = list(values), set[int](), 0
    while waiting:
        value = waiting.pop()
        looked_at += 1
        if looked_at > _MAX_PARTS:
            return False
        if isinstance(value, tuple | list | set | frozenset | dict):
            if id(value) not in seen:
                seen.add(id(value))
                waiting += (
                    [*value, *value.values()][: _MAX_PARTS + 1]
                    if isinstance(value, dict)
                    else list(value)[: _MAX_PARTS + 1]
                )
        elif not isinstance(value, _LITERALS) and not accepts(value):
            return False
    return True


def _container(value: object) -> bool:
    """A container that stands in the file; a copy of one; literals, which are refused or copied."""
    if isinstance(value, CallRecord):
        return _module(value.maker) in ("collections", "builtins") and contents(value)
    return isinstance(value, list | tuple | dict | set | frozenset | str | bytes)


def _tensor_part(part: object) -> bool:
    if isinstance(part, PersistentId | GlobalName):
        return True
    if not isinstance(part, CallRecord):
        return False
    if str(part.maker) == "collections.OrderedDict":  # of hooks, which would be called in the backward pass
        return not part.pairs and not (isinstance(part.arguments, tuple) and part.arguments and part.first)
    return _module(part.maker) in _PART_MODULES or str(part.maker) in _PARTS


def _rebuilt(record: CallRecord) -> bool:
    return str(record.maker) == "copyreg._reconstructor"


def _of_numbers(part: object) -> bool:
    """A record of a numpy type without objects in it."""
    if not isinstance(part, CallRecord) or str(part.maker) != "numpy.dtype" or not number_type(part):
        return False
    return not (isinstance(part.first, str) and part.first.lstrip("<>|=").startswith("O"))


def _bytes_record(part: object) -> bool:
    return isinstance(part, CallRecord) and str(part.maker) in ("_codecs.encode", "builtins.bytes")


def _module(value: object) -> str:
    return value.module if isinstance(value, GlobalName) else ""


def _name(value: object) -> str:
    return value.name if isinstance(value, GlobalName) else ""
