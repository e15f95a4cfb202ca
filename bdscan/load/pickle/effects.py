"""What loading a pickle would do, read off its opcodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from mmap import mmap

from bdscan.facts.finding import Level
from bdscan.load.danger import Danger
from bdscan.load.pickle.allowlist import Trust, trust_in
from bdscan.load.pickle.opcodes import MAX_STEPS, follow_one
from bdscan.load.pickle.records import CallRecord, GlobalName, PickleTrace

_MAX_PICKLES = 32  # one after another; torch's own files hold one or five
_MAX_LISTED = 20
_MAX_DEPTH = 3  # pickles inside strings inside pickles
_GETATTR = GlobalName("builtins", "getattr")
_LOAD_FROM_BYTES = GlobalName("torch.storage", "_load_from_bytes")


def follow_all(data: bytes | mmap, start: int = 0, end: int | None = None, steps: int = MAX_STEPS) -> list[PickleTrace]:
    """Every pickle from `start` on, one after another, until one breaks or the data end."""
    end = len(data) if end is None else end
    traces: list[PickleTrace] = []
    while start < end and len(traces) < _MAX_PICKLES and steps > 0:
        trace = follow_one(data, start, end, steps)
        traces.append(trace)
        if trace.broken:
            break
        start, steps = trace.end, steps - trace.steps
    return traces


def dangers(trace: PickleTrace, where: str, depth: int = 0) -> Iterator[Danger]:
    """What should worry the user of this pickle, gravest first."""
    first_calls = {call.maker: call for call in reversed(trace.calls) if isinstance(call.maker, GlobalName)}
    by_trust: dict[Trust, list[GlobalName]] = defaultdict(list)
    for global_name in trace.names:
        by_trust[_trust_in_use(global_name, trace)].append(global_name)
    for global_name in by_trust[Trust.DANGEROUS][:_MAX_LISTED]:
        if global_name.module != "?":  # a suspicious opcode, reported as such
            message, place = _consequence(global_name, first_calls), f"{where}, byte {trace.names[global_name]}"
            yield Danger(Level.BACKDOOR, message, place)
    yield from _evasions(trace, where)
    yield from _persistent_id_dangers(trace, where)
    if by_trust[Trust.UNKNOWN]:
        message = f"loading it would import code that nobody vouches for: {_listed(by_trust[Trust.UNKNOWN])}"
        yield Danger(Level.SUSPECT, message, where)
    if by_trust[Trust.HARMLESS]:
        message = f"it holds more than tensors, known and harmless: {_listed(by_trust[Trust.HARMLESS])}"
        yield Danger(Level.NOTE, message, where)
    yield from _nested_dangers(trace, f"{where}, a pickle inside it", depth + 1)


def _nested_dangers(trace: PickleTrace, where: str, depth: int) -> Iterator[Danger]:
    steps = MAX_STEPS
    for data in _nested_pickles(trace):
        if depth > _MAX_DEPTH or steps <= 0:
            yield Danger(Level.SUSPECT, "it packs more pickles into pickles than can be followed", where)
            return
        for inner in follow_all(data, steps=steps):
            steps -= inner.steps
            yield from dangers(inner, where, depth)


def _trust_in_use(global_name: GlobalName, trace: PickleTrace) -> Trust:
    """By how it is called, too, where that tells the harmless from the dangerous.

    Enumeration members and bound methods are pickled as `getattr`, tensors saved with `pickle.dump` as
    `_load_from_bytes`: what the latter would load is followed as well.
    """
    harmless = {_GETATTR: _is_harmless_getattr, _LOAD_FROM_BYTES: _packed_bytes}.get(global_name)
    if harmless and all(harmless(call) for call in trace.calls if call.maker == global_name):
        return Trust.HARMLESS
    return trust_in(global_name)


def _is_harmless_getattr(call: CallRecord) -> bool:
    """getattr(known class or object of it, public name)."""
    if not isinstance(call.arguments, tuple) or len(call.arguments) != 2:
        return False
    target, attribute = call.arguments
    maker = target.maker if isinstance(target, CallRecord) else target
    harmless = isinstance(maker, GlobalName) and trust_in(maker) <= Trust.HARMLESS
    return harmless and isinstance(attribute, str) and attribute.isidentifier() and not attribute.startswith("_")


def _packed_bytes(call: CallRecord) -> bytes | None:
    """The one argument, where it is bytes that stand in the file."""
    alone = isinstance(call.arguments, tuple) and len(call.arguments) == 1
    return call.first if alone and isinstance(call.first, bytes) else None


def _nested_pickles(trace: PickleTrace) -> Iterable[bytes]:
    """Each once: the same bytes may be referred to a million times."""
    packed = (_packed_bytes(call) for call in trace.calls if call.maker == _LOAD_FROM_BYTES)
    return {id(data): data for data in packed if data}.values()


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
    for target in {target for target in trace.foreign_targets if isinstance(target, GlobalName)}:
        message = f"loading it would change {quoted(target)} itself, not an object of its own"
        yield Danger(Level.BACKDOOR, message, where)


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
