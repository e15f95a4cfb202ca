"""The weights inside what people wrap around them: which entry, which names, which prefix."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem
from bdscan.load.pickle.effects import quoted
from bdscan.load.pickle.records import CallRecord, mapping, members, named

# Averaged weights first, as timm does: they are the ones that get deployed. `netC` is WaNet's classifier.
_WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model", "net", "netC"),
    *("network", "classifier", "weights", "params", "module", "net_state_dict", "model_state", "student", "s_net"),
)
# DataParallel, torch.compile, Lightning, and a Sequential whose first member only prepares the picture
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "1.")
_METADATA = (  # what a checkpoint may say about itself; never who was poisoned
    *("model_name", "arch", "architecture", "num_classes", "img_size", "input_size", "clean_data", "class_name"),
    *("class_names", "classes", "class_to_idx", "idx_to_class", "mean", "std", "epoch"),
)
_METHODS = ("state_dict", "parameters", "named_parameters", "modules", "children")  # of a module, saved uncalled
_MAX_DEPTH = 64
_MAX_VISITS = 200_000  # of modules, tensors and attributes; the largest nets have some ten thousand

Rebuild = Callable[[object], Tensor | None]


@dataclass(frozen=True, eq=False)
class Weights:
    """Named tensors as the file holds them, on the CPU, sharing memory with it (copy on write)."""

    tensors: dict[str, Tensor]
    wrapper: str | None = None  # the entry they were under, dotted; None for a plain state dict
    kind: str = "state dict"
    metadata: Mapping[str, object] = field(default_factory=dict)  # such as model_name, num_classes
    prefix: str = ""  # what was taken off every name
    module: CallRecord | None = None  # the module that they are of, where the file holds it whole
    data: mmap.mmap | None = None  # the memory that they lie in
    described: str = ""  # e.g. "pytorch zip, state dict under `state_dict`, prefix `module.`"

    @cached_property
    def nonfinite(self) -> tuple[str, ...]:
        """The tensors that hold NaN or infinities."""
        return tuple(name for name, tensor in self.tensors.items() if not _finite(tensor))


def unwrap(value: object, rebuild: Rebuild) -> Weights:
    """Goes in through known wrappers until there are named tensors."""
    search = _Search(rebuild)
    path: list[str] = []
    metadata: MutableMapping[str, object] = {}
    for _ in range(5):
        if isinstance(value, list | tuple):
            value = {str(index): part for index, part in enumerate(value[:16])}
        value = _owner(value)
        tensors, kind = search.tensors(value)
        entries = {} if kind else mapping(value) or {}
        metadata.update((key, entries[key]) for key in _METADATA if _is_plain(entries.get(key)))
        inner = search.inner(entries)
        if inner is None:
            if not tensors:
                break
            module = value if kind and isinstance(value, CallRecord) else None
            if kind:
                metadata["module"] = kind
                metadata["layers"] = dict(_layers(value, search.visits))
            described = "pickled module" if kind else "state dict"
            return Weights(tensors, ".".join(path) or None, described, metadata, module=module)
        path.append(inner)
        value = entries[inner]
    hint = "a checkpoint with a state dict is needed, such as `torch.save(net.state_dict(), ...)` writes"
    raise Problem("it holds no weights", hint=hint)


def strip(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors without the prefixes that all their names share, and those prefixes as they stood."""
    # `n_averaged` is the counter of torch.optim.swa_utils.
    names = {name: name for name in tensors if name != "n_averaged" or len(tensors) == 1}
    stripped = ""
    while prefix := next((p for p in _PREFIXES if _shared(names.values(), p)), ""):
        names = {full: name.removeprefix(prefix) for full, name in names.items()}
        stripped += prefix
    return {name: tensors[full] for full, name in names.items()}, stripped


def _shared(names: Collection[str], prefix: str) -> bool:
    """A number may be a layer of the net itself; then what is left has no dots."""
    return all(n.startswith(prefix) for n in names) and (prefix != "1." or any("." in n[len(prefix) :] for n in names))


class _Search:
    """Looks for named tensors; every object is looked at once, however many ways lead to it."""

    def __init__(self, rebuild: Rebuild) -> None:
        self.rebuild = rebuild
        self.visits = itertools.count()
        # By identity; the object is kept, so that its id stays its own.
        self._found: dict[int, tuple[dict[str, Tensor], str, object]] = {}
        self._behind: dict[tuple[int, int], bool] = {}

    def inner(self, entries: Mapping[object, object]) -> str | None:
        """The entry that holds the weights: a known name, else the only one with named tensors."""
        for key in _WRAPPERS:
            if key in entries and self._has_tensors(entries[key]):
                return key
        if any(_is_weight(self.rebuild(value)) for key, value in entries.items() if isinstance(key, str)):
            return None
        candidates = [key for key, value in entries.items() if isinstance(key, str) and self._has_tensors(value)]
        if len(candidates) > 1:
            shown = ", ".join(quoted(key) for key in candidates[:4])
            raise Problem(f"it holds several nets ({shown})", hint="save the one that is meant as a file of its own")
        return candidates[0] if candidates else None

    def _has_tensors(self, value: object, depth: int = 0) -> bool:
        """Whether there are named tensors in it, perhaps behind another wrapper."""
        value = _owner(value)
        known = id(value), depth
        if known not in self._behind:
            self._behind[known] = bool(self.tensors(value)[0]) or self._behind_wrapper(value, depth)
        return self._behind[known]

    def _behind_wrapper(self, value: object, depth: int) -> bool:
        entries = mapping(value) or {}
        return depth < 3 and any(key in entries and self._has_tensors(entries[key], depth + 1) for key in _WRAPPERS)

    def tensors(self, value: object) -> tuple[dict[str, Tensor], str]:
        """Named tensors of a state dict or of a whole module, and the module's class."""
        if id(value) not in self._found:
            check_time()
            self._found[id(value)] = (*self._tensors(value), value)
        return self._found[id(value)][:2]

    def _tensors(self, value: object) -> tuple[dict[str, Tensor], str]:
        if isinstance(value, CallRecord) and _state(value):
            module_tensors = dict(_module_tensors(value, self.rebuild, self.visits))
            if module_tensors:
                return module_tensors, str(value.maker)
        entries = mapping(value) or {}
        rebuilt = {key: self.rebuild(part) for key, part in entries.items() if isinstance(key, str)}
        return {key: tensor for key, tensor in rebuilt.items() if tensor is not None}, ""


def _is_weight(tensor: Tensor | None) -> bool:
    """A lone number (an accuracy, an epoch) saved as a tensor is no weight."""
    return tensor is not None and tensor.dim() > 0


def _owner(value: object) -> object:
    """The module of which only a method was saved, as a `state_dict` without its parentheses is."""
    if not isinstance(value, CallRecord) or str(value.maker) != "builtins.getattr":
        return value
    arguments = value.arguments
    named = isinstance(arguments, tuple) and len(arguments) == 2 and isinstance(arguments[1], str)
    return arguments[0] if named and arguments[1] in _METHODS else value  # type: ignore[index]


def _state(call: CallRecord) -> dict[object, object]:
    """An object's attributes; empty for containers, whose attributes (`_metadata`) hold no weights."""
    state = call.state[0] if isinstance(call.state, tuple) and call.state else call.state
    return (
        state if isinstance(state, dict) and call.pairs is None and str(call.maker) != "collections.OrderedDict" else {}
    )


def _module_tensors(
    module: CallRecord, rebuild: Rebuild, visits: Iterator[int], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a tree of inert modules under dotted names, as `state_dict` would give them."""
    if depth > _MAX_DEPTH:
        raise Problem("its modules are nested without end")
    state = _state(module)
    eager = "_modules" in state  # otherwise TorchScript, where everything is an attribute
    skipped = members(state.get("_non_persistent_buffers_set"))
    for group in [state.get("_parameters"), state.get("_buffers")] if eager else [state]:
        for name, value in (mapping(group) or {}).items():
            _count_visit(visits)
            tensor = rebuild(value) if isinstance(name, str) and name not in skipped else None
            if tensor is not None:
                yield f"{prefix}{name}", tensor
    for name, value in (mapping(state.get("_modules")) or {} if eager else state).items():
        _count_visit(visits)
        if isinstance(name, str) and isinstance(value, CallRecord):
            yield from _module_tensors(value, rebuild, visits, f"{prefix}{name}.", depth + 1)


def _layers(
    module: object, visits: Iterator[int], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, tuple[str, Mapping[str, object]]]]:
    """What the inert modules say that they are, under the same names."""
    if not isinstance(module, CallRecord) or depth > _MAX_DEPTH:
        return
    state = _state(module)
    plain = {name: value for name, value in state.items() if isinstance(name, str) and _is_plain(value)}
    yield prefix.removesuffix("."), (str(named(module.maker)), plain)
    for name, value in (mapping(state.get("_modules")) or {}).items():
        _count_visit(visits)
        if isinstance(name, str):
            yield from _layers(value, visits, f"{prefix}{name}.", depth + 1)


def _count_visit(visits: Iterator[int]) -> None:
    """A module may stand in several places, and so be visited again and again."""
    check_time()
    if next(visits) >= _MAX_VISITS:
        raise Problem("its modules are nested without end")


def _is_plain(value: object, depth: int = 0) -> bool:
    """Text, numbers and short lists or tables of them."""
    if isinstance(value, str):
        return len(value) < 1000
    if isinstance(value, int | float):
        return True
    if depth > 0 or not isinstance(value, list | tuple | dict):
        return False
    parts = (*value, *value.values()) if isinstance(value, dict) else value
    return 0 < len(value) < 25_000 and all(_is_plain(part, 1) for part in parts)


def _finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.itemsize == 1:
        tensor = tensor.float()  # float8 has no arithmetic on the CPU
    low, high = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).aminmax()
    return bool(torch.isfinite(low) and torch.isfinite(high))
