"""What loading a pickle would do, read off its opcodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from mmap import mmap

from bdscan.facts.finding import Level
from bdscan.load.danger import Danger
from bdscan.load.pickle.allowlist import Trust, trust
from bdscan.load.pickle.opcodes import MOST_STEPS
from bdscan.load.pickle.opcodes import walk as walk_one
from bdscan.load.pickle.records import Made, Name, Walk

_MOST_PICKLES = 32  # one after another; torch's own files hold one or five
_MOST_TOLD = 20
_DEEPEST = 3  # pickles inside strings inside pickles


def follow(data: bytes | mmap, start: int = 0, end: int | None = None, steps: int = MOST_STEPS) -> list[Walk]:
    """Every pickle from `start` on, one after another, until one breaks or the data end."""
    end = len(data) if end is None else end
    walks: list[Walk] = []
    while start < end and len(walks) < _MOST_PICKLES and steps > 0:
        walk = walk_one(data, start, end, steps)
        walks.append(walk)
        if walk.broken:
            break
        start, steps = walk.end, steps - walk.steps
    return walks


def dangers(walk: Walk, where: str, depth: int = 0) -> Iterator[Danger]:
    """What should worry the user of this pickle, gravest first."""
    called = _called(walk)
    by_trust: dict[Trust, list[Name]] = defaultdict(list)
    for asked in walk.names:
        by_trust[_trust(asked, walk)].append(asked)
    for asked in by_trust[Trust.DANGEROUS][:_MOST_TOLD]:
        if asked.module != "?":  # told by `strange`
            yield Danger(
                level=Level.BACKDOOR, message=_would(asked, called), where=f"{where}, byte {walk.names[asked]}"
            )
    yield from _tricks(walk, where)
    yield from _pids(walk, where)
    if by_trust[Trust.UNKNOWN]:
        message = f"loading it would import code that nobody vouches for: {_listed(by_trust[Trust.UNKNOWN])}"
        yield Danger(level=Level.SUSPECT, message=message, where=where)
    if by_trust[Trust.KNOWN]:
        message = f"it holds more than tensors, known and harmless: {_listed(by_trust[Trust.KNOWN])}"
        yield Danger(level=Level.NOTE, message=message, where=where)
    yield from _inside(walk, f"{where}, a pickle inside it", depth + 1)


def _inside(walk: Walk, where: str, depth: int) -> Iterator[Danger]:
    steps = MOST_STEPS
    for data in _nested(walk):
        if depth > _DEEPEST or steps <= 0:
            yield Danger(
                level=Level.SUSPECT, message="it packs more pickles into pickles than can be followed", where=where
            )
            return
        for inner in follow(data, steps=steps):
            steps -= inner.steps
            yield from dangers(inner, where, depth)


def _trust(asked: Name, walk: Walk) -> Trust:
    level = trust(asked)
    if asked == Name("builtins", "getattr") and all(_harmless(made) for made in walk.made if made.maker == asked):
        return Trust.KNOWN  # enumeration members and bound methods are pickled so
    if asked == Name("torch.storage", "_load_from_bytes") and all(
        _bytes(made) for made in walk.made if made.maker == asked
    ):
        return Trust.KNOWN  # tensors saved with `pickle.dump`; what it would load is followed too
    return level


def _harmless(made: Made) -> bool:
    """getattr(known class or object of it, public name)."""
    if not isinstance(made.arguments, tuple) or len(made.arguments) != 2:
        return False
    target, attribute = made.arguments
    maker = target.maker if isinstance(target, Made) else target
    known = isinstance(maker, Name) and trust(maker) <= Trust.KNOWN
    return known and isinstance(attribute, str) and attribute.isidentifier() and not attribute.startswith("_")


def _bytes(made: Made) -> bytes | None:
    """The one argument, where it is bytes that stand in the file."""
    arguments = made.arguments
    if isinstance(arguments, tuple) and len(arguments) == 1 and isinstance(arguments[0], bytes):
        return arguments[0]
    return None


def _nested(walk: Walk) -> Iterable[bytes]:
    """Each once: the same bytes may be referred to a million times."""
    packed = (_bytes(made) for made in walk.made if made.maker == Name("torch.storage", "_load_from_bytes"))
    return {id(data): data for data in packed if data}.values()


def _called(walk: Walk) -> dict[Name, Made]:
    called: dict[Name, Made] = {}
    for made in walk.made:
        if isinstance(made.maker, Name):
            called.setdefault(made.maker, made)
    return called


def _would(asked: Name, called: dict[Name, Made]) -> str:
    if asked not in called:
        return f"loading it would import {quoted(asked)}, which no model needs"
    arguments = called[asked].arguments
    first = arguments[0] if isinstance(arguments, tuple) and arguments else None
    given = f" with {quoted(first)}" if isinstance(first, str | bytes) else ""
    return f"loading it would call {quoted(asked)}{given}"


def _tricks(walk: Walk, where: str) -> Iterator[Danger]:
    for message, offset in walk.strange.items():
        yield Danger(level=Level.BACKDOOR, message=message, where=f"{where}, byte {offset}")
    if any(isinstance(made.maker, Made) for made in walk.made):
        message = "it calls what an earlier call of its own returns"
        yield Danger(level=Level.BACKDOOR, message=message, where=where)
    for target in {target for target in walk.built if isinstance(target, Name)}:
        message = f"loading it would change {quoted(target)} itself, not an object of its own"
        yield Danger(level=Level.BACKDOOR, message=message, where=where)


def _pids(walk: Walk, where: str) -> Iterator[Danger]:
    kinds = [pid.pid[0] if isinstance(pid.pid, tuple) and pid.pid else None for pid in walk.pids]
    if "module" in kinds:
        message = "it carries the source code of its classes, as PyTorch before 1.0 saved it"
        yield Danger(level=Level.NOTE, message=message, where=where)
    if any(kind not in ("storage", "module") for kind in kinds):
        message = "it refers to persistent objects that are no tensor storages"
        yield Danger(level=Level.SUSPECT, message=message, where=where)


def _listed(names: Iterable[Name]) -> str:
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(quoted(name) for name in names[:5]) + more


def quoted(value: object) -> str:
    """A literal from the file, made safe to show: short, printable, in backticks."""
    text = str(value) if isinstance(value, Name) else repr(value[:81] if isinstance(value, str | bytes) else value)
    text = text.replace("`", "'")
    text = text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
    return f"`{text[:80]}...`" if len(text) > 80 else f"`{text}`"
