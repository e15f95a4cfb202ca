"""The net's own source, read as text: `--source FILE.py`, `FILE.py:NAME`, `FILE.py:NAME(...)` or a folder."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeGuard

from torch import Tensor, nn

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem, plain, unusable
from bdscan.load.arch.bounded import Bounded
from bdscan.load.arch.from_file import SIZES, counts
from bdscan.load.arch.match import Difference, FilledNet, count_outputs, fit
from bdscan.load.code.budget import Budget
from bdscan.load.code.folder import Folder, Parts, Sources
from bdscan.load.code.modules import Interpreted, check_tree
from bdscan.load.code.nets import NetVocabulary
from bdscan.load.code.parse import parse
from bdscan.load.code.refusal import NotFollowed
from bdscan.load.code.runs import Runs
from bdscan.load.code.values import Class, Function, Scope, Wrapped
from bdscan.load.nets.candidate import NOT_SUCH_A_NET, Candidate, outline_of

_MAX_NUMBERS = 1 << 27  # in all tables that a net works out while it is built; its layers have no memory yet
_MAX_TRIES = 400  # calls of classes and functions
_MAX_CALLS = 6  # of one class, as its files call it
# What people call the number of classes and of the images' channels, in lower case.
_CLASSES = re.compile(
    r"(num|n|nb|no|number)?_?(of_)?(class(es)?|labels?)(_?(num|count|size))?|nclass(es)?|out(put)?s?_?(dim|size|features)?"
)
_CHANNELS = re.compile(r"(num_|n_|nb_)?(in|input|image|img)_?(ch|chans?|channels?|dim|planes)s?|n_?c|channels?")


@dataclass(frozen=True)
class Found:
    """The nets of a source that all tensors go into, and what is to be said about it."""

    nets: list[FilledNet]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Way:
    """A class or a function, and how it is called."""

    parts: Parts
    name: str
    call: ast.Call | None = None  # as a file of the source calls it
    given: tuple[object, ...] = ()
    named: Mapping[str, object] = field(default_factory=dict)

    @property
    def described(self) -> str:
        if self.call is not None:
            return _written(self.call) + ("" if not self.named else f" with {_shown(self.named)}")
        arguments = ", ".join([*map(str, self.given), *([_shown(self.named)] if self.named else [])])
        return f"{self.name}({arguments})"


def find(spec: str, tensors: dict[str, Tensor], path: str, prefix: str = "") -> Found:
    """Every net in the source that the tensors wholly are, each called as its own files call it or by its defaults."""
    place, colon, name = spec.partition(".py:")
    search = _Search(Folder(Path(place + ".py" if colon else spec)), tensors, name, prefix)
    search.go()
    if not search.fitting:
        raise search.problem(path)
    return Found(search.nets(), search.notes())


class _Search:
    def __init__(self, folder: Folder, tensors: dict[str, Tensor], name: str, prefix: str) -> None:
        self.folder, self.tensors = folder, tensors
        self.name, self.call = _named(name)
        self.prefix = prefix.removeprefix("module.").removeprefix("_orig_mod.")  # what may be the net's own
        self.outline = outline_of(tensors)
        self.fitting: dict[object, tuple[_Way, FilledNet]] = {}
        self.misfits: list[tuple[_Way, Difference]] = []
        self.flattened = False
        self.refused: dict[object, bool] = {}
        self.refusals: list[tuple[_Way | None, Problem]] = []

    def go(self) -> None:
        for i, way in enumerate(self._ways()):
            check_time()
            if i >= _MAX_TRIES:
                break
            self._try(way)

    def _ways(self) -> Iterator[_Way]:
        """All that could give the net: what is called with arguments in the files themselves first."""
        world = _World(self.folder)
        sites: dict[str, list[tuple[Parts, ast.Call]]] = {}
        names: list[tuple[Parts, str]] = []
        for parts in self.folder.named:
            try:
                tree = self.folder.tree(parts)
            except Problem as problem:
                self.refusals.append((None, problem))
                continue
            names += [(parts, name) for name in _made_by(tree)] if tree else []
            for call in _calls(tree) if tree else ():
                sites.setdefault(str(getattr(call.func, "id", "")), []).append((parts, call))
        chosen = [(parts, name) for parts, name in names if self.name in ("", name)]
        if self.name and not chosen:
            raise unusable(f"the source has no class or function {self.name!r} that makes a net")
        for parts, name in chosen:
            try:
                made = world.value(parts, name)
            except (NotFollowed, *NOT_SUCH_A_NET) as error:
                self.refusals.append((_Way(parts, name), _as_problem(error)))
                continue
            if self.call is not None:
                yield _Way(parts, name, self.call)
            elif _makes_nets(made):
                yield from self._ways_of(parts, name, made, sites.get(name, [])[:_MAX_CALLS])

    def _ways_of(
        self, parts: Parts, name: str, made: Class | Function, sites: list[tuple[Parts, ast.Call]]
    ) -> Iterator[_Way]:
        init = made.find("__init__") if isinstance(made, Class) else made
        arguments = [argument.arg for argument in _parameters(init)][isinstance(made, Class) :]
        settings = list(self._settings(arguments))
        for setting in settings:
            yield _Way(parts, name, named=setting)
        for place, call in sites:
            for setting in settings:
                yield _Way(place, name, call, named=setting)
        if _needed(init) == 1 + isinstance(made, Class):
            for count in counts(self.outline):
                yield _Way(parts, name, given=(count,))

    def _settings(self, arguments: list[str]) -> Iterator[Mapping[str, object]]:
        """The defaults, and whatever the tensors tell about classes and channels."""
        yield {}
        classes = next((one for one in arguments if _CLASSES.fullmatch(one.lower())), None)
        channels = next((one for one in arguments if _CHANNELS.fullmatch(one.lower())), None)
        depth = next((shape[1] for shape in self.outline.values() if len(shape) == 4), None)
        told = [(channels, depth)] if channels and depth else []
        for count in counts(self.outline) if classes else ():
            yield dict([(str(classes), count)])
            if told:
                yield dict([(str(classes), count), *told])
        if told:
            yield dict(told)

    def _try(self, way: _Way) -> None:
        candidate = Candidate(
            name=f"{self.folder.file(way.parts)}:{way.name}", build=partial(_build, self.folder, way), sizes=SIZES
        )
        try:
            result = self._fit(candidate)
        except Problem as problem:
            self.refusals.append((way, problem))
            return
        if isinstance(result, Difference):
            self.misfits.append((way, result))
        elif result is not None:
            self._keep(way, result)

    def _fit(self, candidate: Candidate) -> FilledNet | Difference | None:
        """With the names in the file as they are, or without what was taken for a wrapper's prefix."""
        result = fit(candidate, self.tensors)
        if not isinstance(result, Difference) or not self.prefix:
            return result
        whole = fit(replace(candidate, convert=partial(_prefixed, self.prefix)), self.tensors)
        return whole if isinstance(whole, FilledNet) else result

    def _keep(self, way: _Way, filled: FilledNet) -> None:
        """Once, and only if its `forward` can be followed."""
        key = _structure(filled.net)
        if key in self.fitting or self.refused.get(key):
            return
        try:
            self.flattened = _run(filled.net) or self.flattened
        except Problem as problem:
            self.refused[key] = True
            self.refusals.append((way, problem))
        else:
            self.fitting[key] = (way, filled)

    def nets(self) -> list[FilledNet]:
        """Where several fit, each says how it was called."""
        if len(self.fitting) == 1:
            return [filled for _, filled in self.fitting.values()]
        return [
            FilledNet(filled.net, _as_variant(filled.candidate, way.described)) for way, filled in self.fitting.values()
        ]

    def notes(self) -> tuple[str, ...]:
        way, _ = next(iter(self.fitting.values()))  # where images tell them apart, the report names the one taken
        read = ", ".join(f"`{file}` (sha256 {digest})" for file, digest in self.folder.digests.items())
        notes = [f"structure read from `{self.folder.file(way.parts)}` (`{way.described}`), not run", f"read: {read}"]
        left_out = {
            filled.net.runs.left_out for _, filled in self.fitting.values() if isinstance(filled.net, Interpreted)
        }
        notes += [f"the net's last `{name}` was left out: bdscan works on logits" for name in sorted(left_out - {""})]
        notes += ["the net takes rows of numbers: each image is laid out as one"] if self.flattened else []
        return tuple(notes)

    def problem(self, path: str) -> Problem:
        """What came nearest, and what stood in the way."""
        hint = "`--source FILE.py:NAME` or `FILE.py:NAME(...)` says what to call; "
        hint += "`--arch FILE.py:factory` runs the file, if you trust it"
        if self.misfits:
            way, difference = min(self.misfits, key=lambda pair: len(pair[1]))
            message = f"the tensors in `{path}` are those of no net in the source; the nearest is `{way.described}`"
            message += f" of `{self.folder.file(way.parts)}`, but {difference.described}"
            _, refusal = min(self.refusals, key=lambda pair: _rank(pair[0]), default=(None, None))
            refused = f" (not followed: {refusal.message})" if refusal else ""
            return Problem(message + refused, hint=hint)
        if self.refusals:
            _, refusal = min(self.refusals, key=lambda pair: _rank(pair[0]))
            return Problem(f"no net in the source could be followed: {refusal.message}", hint=hint)
        return Problem("the source has no class that derives from `nn.Module` and can be called", hint=hint)


def _named(name: str) -> tuple[str, ast.Call | None]:
    """`NAME`, or `NAME(...)` with its arguments."""
    body = parse(name, "--source").body if "(" in name else []
    call = body[0].value if len(body) == 1 and isinstance(body[0], ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
        return call.func.id, call
    return name, None


def _rank(way: _Way | None) -> int:
    """Classes tell more than functions, and these more than whole files."""
    return 2 if way is None else 1 - way.name[:1].isupper()


def _written(call: ast.Call) -> str:
    try:
        return plain(ast.unparse(call))
    except RecursionError:
        return "a call of it"


def _as_variant(candidate: Candidate, variant: str) -> Candidate:
    return Candidate(name=candidate.name, build=candidate.build, sizes=candidate.sizes, variant=f"`{variant}`")


class _World:
    """One interpreter with its own view of the files: two nets share nothing that either could change."""

    def __init__(self, folder: Folder) -> None:
        vocabulary = NetVocabulary()
        self.machine = vocabulary.machine = Runs(vocabulary)
        self.sources = vocabulary.neighbours = Sources(folder, self.machine)

    def value(self, parts: Parts, name: str) -> object:
        text = self.sources.text(parts)
        assert text is not None  # it has been listed
        with self.machine.build(Budget()):
            return text.find(name)

    def made(self, way: _Way) -> object:
        text = self.sources.text(way.parts)
        assert text is not None
        machine = self.machine
        with machine.build(Budget()):
            maker = text.find(way.name)
            given, named = list(way.given), way.named
            if way.call is not None:
                given, named = self._arguments(way.call, Scope(text), named)
            return machine.call(maker, *given, **named)

    def _arguments(
        self, call: ast.Call, scope: Scope, named: Mapping[str, object]
    ) -> tuple[list[object], Mapping[str, object]]:
        """What stands in a call, where that is known outside the function that it may stand in."""
        try:
            given = [self.machine.value(argument, scope) for argument in call.args]
            return given, {
                **{one.arg: self.machine.value(one.value, scope) for one in call.keywords if one.arg},
                **named,
            }
        except NotFollowed:
            raise TypeError("its arguments are not known") from None


def _build(folder: Folder, way: _Way) -> nn.Module:
    with Bounded(_MAX_NUMBERS, altogether=_MAX_NUMBERS):
        net = _World(folder).made(way)
    if not isinstance(net, nn.Module):
        raise TypeError("it is no net")
    check_tree(net)
    if isinstance(net, Interpreted):
        net.whole = True
    return net


def _run(net: nn.Module) -> bool:
    """On images of the first usual size that it takes, so that what cannot be followed is told in time.

    Whether they have to be laid out as rows of numbers, as a training loop does for a net of linear layers.
    """
    conv = next((part for part in net.modules() if isinstance(part, nn.Conv2d)), None)
    shapes = [(channels, side, side) for side in SIZES for channels in ((conv.in_channels,) if conv else (1, 3))]
    if any(count_outputs(net, shape) is not None for shape in shapes):
        return False
    if conv is None:
        hook = net.register_forward_pre_hook(_laid_out)
        if any(count_outputs(net, shape) is not None for shape in shapes):
            return True
        hook.remove()
    return False


def _laid_out(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(images.flatten(1) for images in arguments)


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _made_by(tree: ast.Module) -> Iterator[str]:
    """Classes with bases, and functions that give something."""
    for part in tree.body:
        if (isinstance(part, ast.ClassDef) and part.bases) or (isinstance(part, ast.FunctionDef) and _gives(part)):
            yield part.name


def _gives(function: ast.FunctionDef) -> bool:
    return any(isinstance(part, ast.Return) and part.value is not None for part in ast.walk(function))


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls by a plain name, with arguments."""
    for part in ast.walk(tree):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and (part.args or part.keywords):
            yield part


def _makes_nets(made: object) -> TypeGuard[Class | Function]:
    if isinstance(made, Class):
        return any(isinstance(root, type) and issubclass(root, nn.Module) for root in made.roots)
    return isinstance(made, Function)


def _needed(function: object) -> int:
    """How many arguments it cannot be called without."""
    function = function.function if isinstance(function, Wrapped) else function
    return len(function.node.args.args) - len(function.defaults) if isinstance(function, Function) else 0


def _parameters(function: object) -> list[ast.arg]:
    if isinstance(function, Wrapped):
        function = function.function
    return [*function.node.args.args, *function.node.args.kwonlyargs] if isinstance(function, Function) else []


def _structure(net: nn.Module) -> object:
    """What tells two nets with the same tensors apart: kinds of modules and all their settings."""
    parts: list[object] = []
    for name, module in net.named_modules():
        fields = module.fields if isinstance(module, Interpreted) else {}
        plainly = {key: value for key, value in fields.items() if isinstance(value, int | float | str | None)}
        parts.append((name, type(module).__name__, module.extra_repr(), repr(plainly)))
    return tuple(parts)


def _shown(named: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in named.items())


def _as_problem(error: BaseException) -> Problem:
    return error if isinstance(error, Problem) else Problem(f"{type(error).__name__}: {plain(error)}")
