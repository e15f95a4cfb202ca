"""What loading a pickle would do, read off its opcodes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from bdscan.facts.finding import Level
from bdscan.load.danger import Danger
from bdscan.load.pickle.allowlist import Trust, trust_in, vouched
from bdscan.load.pickle.arguments import packed_bytes
from bdscan.load.pickle.records import CallRecord, GlobalName, PickleTrace, bytes_of, mapping, named

_MAX_LISTED = 20
_LOAD_FROM_BYTES = GlobalName("torch.storage", "_load_from_bytes")
# Methods that the unpickler calls on an object, and what would make another object of it.
_UNPICKLERS = frozenset({"__setstate__", "append", "extend", "add", "__class__", "__dict__"})
_HOOKS = re.compile(r"_\w*hooks|forward")  # of a layer: called whenever the net is used


def dangers(trace: PickleTrace, where: str, *, torchscript: bool = False) -> Iterator[Danger]:
    """What should worry the user of this pickle, gravest first; what it packs into bytes is not looked at.

    In a TorchScript archive, `__torch__` stands for the archive's own code.
    """
    uses = _Uses(trace, torchscript)
    for name in uses.by_trust[Trust.DANGEROUS][:_MAX_LISTED]:
        if name.module != "?":  # a suspicious opcode, reported as such
            message, place = _consequence(name, uses.first_calls), f"{where}, byte {trace.names[name]}"
            yield Danger(Level.BACKDOOR, message, place)
    yield from _evasions(trace, where)
    for name in uses.changed:
        message = f"loading it would change what {quoted(name)} gives, which is not an object of its own"
        yield Danger(Level.BACKDOOR, message, where)
    yield from _persistent_id_dangers(trace, where)
    misused = [name for name in uses.by_trust[Trust.UNKNOWN] if vouched(name)]
    if misused:
        yield Danger(Level.SUSPECT, f"loading it would call {_listed(misused)} as no model's file does", where)
    if unknown := [name for name in uses.by_trust[Trust.UNKNOWN] if name not in misused]:
        message = f"loading it would import code that nobody vouches for: {_listed(unknown)}"
        yield Danger(Level.SUSPECT, f"{message}; a file of `net.state_dict()` needs none", where)
    yield from _hook_dangers(trace, where)
    if trace.excessive:
        yield Danger(Level.SUSPECT, f"{trace.broken}, more than any model's pickle does", where)
    if uses.by_trust[Trust.HARMLESS]:
        message = f"it holds more than tensors, known and harmless: {_listed(uses.by_trust[Trust.HARMLESS])}"
        yield Danger(Level.NOTE, message, where)


def nested_bytes(trace: PickleTrace) -> list[bytes]:
    """What the pickle hands to torch to be loaded as a file of its own; the same bytes may be handed over again."""
    packed = {id(call.first): call for call in trace.calls if call.maker == _LOAD_FROM_BYTES and packed_bytes(call)}
    return [data for call in packed.values() if (data := bytes_of(call.first))]


class _Uses:
    """Every name of a pickle by the trust that it deserves for how it is used."""

    def __init__(self, trace: PickleTrace, torchscript: bool) -> None:
        calls = _calls_by_name(trace)
        self.first_calls = {name: called[0] for name, called in calls.items()}
        self.by_trust: dict[Trust, list[GlobalName]] = defaultdict(list)
        self.changed: list[GlobalName] = []  # whose results get more put into them than belongs there
        for name in trace.names:
            trust, known = trust_in(name, torchscript=torchscript), vouched(name)
            if known is not None:
                if not all(known.takes is not None and known.takes(call) for call in calls[name]):
                    trust = max(trust, known.otherwise)
                if known.only_called and trace.handed_on[name] > 0:
                    trust = Trust.DANGEROUS
                if any(_changes_more(call, known.holds) for call in calls[name]):
                    self.changed.append(name)
            self.by_trust[trust].append(name)


def _calls_by_name(trace: PickleTrace) -> Mapping[GlobalName, list[CallRecord]]:
    calls: dict[GlobalName, list[CallRecord]] = defaultdict(list)
    for call in trace.calls:
        if (maker := named(call.maker)) is not None:
            calls[maker].append(call)
    return calls


def _changes_more(call: CallRecord, holds: str) -> bool:
    """Whether more is put into what it gives than belongs there: that may be shared with the whole process."""
    state, pairs, items = call.state is not None, call.pairs is not None, call.extended
    return (state and "s" not in holds) or (pairs and "k" not in holds) or (items and "l" not in holds)


def _consequence(global_name: GlobalName, first_calls: dict[GlobalName, CallRecord]) -> str:
    if global_name not in first_calls:
        return f"loading it would import {quoted(global_name)}, which no model needs"
    first = first_calls[global_name].first
    given = f" with {quoted(first)}" if isinstance(first, str | bytes) else ""
    return f"loading it would call {quoted(global_name)}{given}"


def _evasions(trace: PickleTrace, where: str) -> Iterator[Danger]:
    for message, offset in trace.suspicious_opcodes.items():
        yield Danger(Level.BACKDOOR, message, f"{where}, byte {offset}")
    if any(isinstance(call.maker, CallRecord) for call in trace.calls):
        yield Danger(Level.BACKDOOR, "it calls what an earlier call of its own returns", where)
    if any(not _UNPICKLERS.isdisjoint(state) for state in _states(trace)):
        yield Danger(Level.BACKDOOR, "it puts something in place of a method that is called while it loads", where)
    for target in {target for target in trace.foreign_targets if isinstance(target, GlobalName)}:
        message = f"loading it would change {quoted(target)} itself, not an object of its own"
        yield Danger(Level.BACKDOOR, message, where)


def _states(trace: PickleTrace) -> Iterator[Mapping[object, object]]:
    """The attributes that objects are given, also those that go into slots."""
    for call in trace.calls:
        for state in call.state if isinstance(call.state, tuple) else (call.state,):
            if isinstance(state, dict):
                yield state


def _hook_dangers(trace: PickleTrace, where: str) -> Iterator[Danger]:
    """Functions hung on layers, but for those of torch itself such as spectral norm."""
    for state in _states(trace):
        for name, value in state.items():
            if isinstance(name, str) and _HOOKS.fullmatch(name) and not all(map(_harmless_hook, _parts(value))):
                message = f"it puts a function of its own into a layer ({quoted(name)}), called when the net is used"
                yield Danger(Level.SUSPECT, message, where)
                return


def _parts(value: object) -> Iterable[object]:
    table = isinstance(value, dict) or (isinstance(value, CallRecord) and str(value.maker) == "collections.OrderedDict")
    return (mapping(value) or {}).values() if table else (value,)


def _harmless_hook(hook: object) -> bool:
    if isinstance(hook, CallRecord):
        return hook.new and (maker := named(hook.maker)) is not None and vouched(maker) is not None
    return isinstance(hook, str | int | bool | type(None))


def _persistent_id_dangers(trace: PickleTrace, where: str) -> Iterator[Danger]:
    kinds = [pid.pid[0] if isinstance(pid.pid, tuple) and pid.pid else None for pid in trace.persistent_ids]
    if "module" in kinds:
        yield Danger(Level.NOTE, "it carries the source code of its classes, as PyTorch before 1.0 saved it", where)
    if any(kind not in ("storage", "module") for kind in kinds):
        yield Danger(Level.SUSPECT, "it refers to persistent objects that are no tensor storages", where)


def _listed(names: Iterable[GlobalName]) -> str:
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(quoted(name) for name in names[:5]) + more


def quoted(value: object) -> str:
    """A literal from the file, made safe to show: short, printable, in backticks."""
    text = (
        str(value) if isinstance(value, GlobalName) else repr(value[:81] if isinstance(value, str | bytes) else value)
    )
    text = text.replace("`", "'")
    text = text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
    return f"`{text[:80]}...`" if len(text) > 80 else f"`{text}`"
