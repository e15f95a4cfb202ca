"""The weights inside what people wrap around them: which entry, which names, which prefix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field

from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.pickle.effects import quoted
from bdscan.load.pickle.records import CallRecord, mapping, members

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
_MAX_DEPTH = 64
_MAX_VISITS = 100_000

Rebuild = Callable[[object], Tensor | None]


@dataclass
class Unwrapped:
    """The named tensors, and the way to them."""

    tensors: dict[str, Tensor]
    wrapper: str | None = None
    kind: str = "state dict"
    metadata: Mapping[str, object] = field(default_factory=dict)


def unwrap(value: object, rebuild: Rebuild) -> Unwrapped:
    """Goes in through known wrappers until there are named tensors."""
    path: list[str] = []
    metadata: MutableMapping[str, object] = {}
    for _ in range(5):
        if isinstance(value, list | tuple):
            value = {str(index): part for index, part in enumerate(value[:16])}
        tensors, kind = _tensors(value, rebuild)
        entries = {} if kind else mapping(value) or {}
        metadata.update((key, entries[key]) for key in _METADATA if _is_plain(entries.get(key)))
        inner = _inner(entries, rebuild)
        if inner is None:
            if not tensors:
                break
            if kind:
                metadata["module"] = kind
            return Unwrapped(tensors, ".".join(path) or None, "pickled module" if kind else "state dict", metadata)
        path.append(inner)
        value = entries[inner]
    raise Problem(
        "it holds no weights",
        hint="a checkpoint with a state dict is needed, such as `torch.save(net.state_dict(), ...)` writes",
    )


def strip(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors without the prefixes that all their names share, and those prefixes as they stood."""
    # `n_averaged` is the counter of torch.optim.swa_utils.
    names = {name: name for name in tensors if name != "n_averaged" or len(tensors) == 1}
    stripped = ""
    while prefix := next((p for p in _PREFIXES if _shared(names.values(), p)), ""):
        names = {full: name.removeprefix(prefix) for full, name in names.items()}
        stripped += prefix
    return {name: tensors[full] for full, name in names.items()}, stripped


def _shared(names: object, prefix: str) -> bool:
    """A number may be a layer of the net itself; then what is left has no dots."""
    listed = list(names)  # type: ignore[call-overload]
    return all(n.startswith(prefix) for n in listed) and (
        prefix != "1." or any("." in n[len(prefix) :] for n in listed)
    )


def _inner(entries: Mapping[object, object], rebuild: Rebuild) -> str | None:
    """The entry that holds the weights: a known name, else the only one with named tensors."""
    for key in _WRAPPERS:
        if key in entries and _has_tensors(entries[key], rebuild):
            return key
    if any(_is_weight(rebuild(value)) for key, value in entries.items() if isinstance(key, str)):
        return None
    candidates = [key for key, value in entries.items() if isinstance(key, str) and _has_tensors(value, rebuild)]
    if len(candidates) > 1:
        shown = ", ".join(quoted(key) for key in candidates[:4])
        raise Problem(f"it holds several nets ({shown})", hint="save the one that is meant as a file of its own")
    return candidates[0] if candidates else None


def _is_weight(tensor: Tensor | None) -> bool:
    """A lone number (an accuracy, an epoch) saved as a tensor is no weight."""
    return tensor is not None and tensor.dim() > 0


def _has_tensors(value: object, rebuild: Rebuild, depth: int = 0) -> bool:
    """Whether there are named tensors in it, perhaps behind another wrapper."""
    if _tensors(value, rebuild)[0]:
        return True
    entries = mapping(value) or {}
    return depth < 3 and any(key in entries and _has_tensors(entries[key], rebuild, depth + 1) for key in _WRAPPERS)


def _tensors(value: object, rebuild: Rebuild) -> tuple[dict[str, Tensor], str]:
    """Named tensors of a state dict or of a whole module, and the module's class."""
    if isinstance(value, CallRecord) and _state(value):
        module_tensors = Modules(rebuild).collect(value)
        if module_tensors:
            return module_tensors, str(value.maker)
    entries = mapping(value) or {}
    rebuilt = {key: rebuild(part) for key, part in entries.items() if isinstance(key, str)}
    return {key: tensor for key, tensor in rebuilt.items() if tensor is not None}, ""


def _state(call: CallRecord) -> dict[object, object]:
    """An object's attributes; empty for containers, whose attributes (`_metadata`) hold no weights."""
    state = call.state[0] if isinstance(call.state, tuple) and call.state else call.state
    return (
        state if isinstance(state, dict) and call.pairs is None and str(call.maker) != "collections.OrderedDict" else {}
    )


class Modules:
    """Walks a tree of inert modules into dotted names, as `state_dict` would."""

    def __init__(self, rebuild: Rebuild) -> None:
        self._rebuild = rebuild
        self._named_tensors: dict[str, Tensor] = {}
        self._visits = 0

    def collect(self, module: object) -> dict[str, Tensor]:
        self._visit(module, "", 0)
        return self._named_tensors

    def _visit(self, module: object, prefix: str, depth: int) -> None:
        self._visits += 1
        if depth > _MAX_DEPTH or self._visits > _MAX_VISITS:
            raise Problem("its modules are nested without end")
        state = _state(module) if isinstance(module, CallRecord) else {}
        eager = "_modules" in state  # otherwise TorchScript, where everything is an attribute
        skipped = members(state.get("_non_persistent_buffers_set"))
        for group in [state.get("_parameters"), state.get("_buffers")] if eager else [state]:
            for name, value in (mapping(group) or {}).items():
                tensor = self._rebuild(value) if isinstance(name, str) and name not in skipped else None
                if tensor is not None:
                    self._named_tensors[f"{prefix}{name}"] = tensor
        for name, value in (mapping(state.get("_modules")) or {} if eager else state).items():
            if isinstance(name, str) and isinstance(value, CallRecord):
                self._visit(value, f"{prefix}{name}.", depth + 1)


def _is_plain(value: object, depth: int = 0) -> bool:
    """Text, numbers and short lists or tables of them."""
    if isinstance(value, str):
        return len(value) < 1000
    if isinstance(value, int | float):
        return True
    if depth == 0 and isinstance(value, list | tuple):
        return 0 < len(value) < 25_000 and all(_is_plain(part, 1) for part in value)
    return (
        depth == 0
        and isinstance(value, dict)
        and 0 < len(value) < 25_000
        and all(_is_plain(part, 1) for part in (*value, *value.values()))
    )
