"""The layers of a Keras model one after another, written as a graph on maps with their channels first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem
from bdscan.load.keras.file import KerasFile
from bdscan.load.keras.layers import Layer, Value, Writer, of, refused
from bdscan.load.onnx.graph import Graph
from bdscan.load.pickle.effects import quoted

_MAX_LAYERS = 5000  # calls of layers; the deepest nets have a thousand
_MAX_DEPTH = 16  # models in models
_MODELS = ("Functional", "Model", "Sequential")


def graph_of(file: KerasFile, arrays: Mapping[str, Tensor]) -> Graph:
    """The graph of the file's configuration, with these arrays in the places of its own."""
    model = _table(file.config)
    if model.get("class_name") not in _MODELS:
        raise refused(f"a model of the class {quoted(str(model.get('class_name')))}")
    sides = _input(_table(model.get("config")))
    writer = Writer(arrays, file.keras)
    run = _Run(file, writer)
    answer = run.model(model, [Value("image", len(sides) + 1)], _Place("", ""), 0)
    dims = (None, *sides) if len(sides) != 3 else (None, sides[2], sides[0], sides[1])
    fractions = {name for name, array in arrays.items() if array.is_floating_point()}
    used = len(writer.taken & fractions)
    return Graph(tuple(writer.nodes), writer.constants, "image", answer.name, dims, False, len(fractions), used)


def _input(config: Mapping[str, object]) -> list[int | None]:
    """The sides of one image, channels last, as the model's one input or its first layer states them."""
    layers = _layers(config)
    inputs = [layer for layer in layers if layer.kind == "InputLayer"]
    if len(inputs) > 1:
        raise refused(f"a model with {len(inputs)} inputs")
    for layer in (*inputs, *layers[:1]):
        for key in ("batch_shape", "batch_input_shape"):
            shape = layer.config.get(key)
            if isinstance(shape, list) and 2 <= len(shape) <= 4:
                return [side if type(side) is int else None for side in shape[1:]]
        if layer.kind in _MODELS:
            return _input(layer.config)
    build = _table(config.get("build_input_shape") if "build_input_shape" in config else {}, optional=True)
    shape = config.get("build_input_shape") or build.get("input_shape")
    if isinstance(shape, list) and 2 <= len(shape) <= 4:
        return [side if type(side) is int else None for side in shape[1:]]
    raise refused("a model that does not state the size of its images")


@dataclass(frozen=True)
class _Place:
    """Where a model's arrays lie: in a zip by the kind of its layers, in a `.h5` by the name of the outermost one."""

    folder: str
    outer: str


@dataclass(eq=False)
class _Run:
    file: KerasFile
    writer: Writer
    calls: int = 0
    listed: dict[str, list[str]] = field(default_factory=dict)  # folder, or outermost one -> the arrays in it

    def __post_init__(self) -> None:
        for path in self.file.arrays:
            folder = path.rpartition("/")[0] if self.file.zipped else path.partition("/")[0]
            self.listed.setdefault(folder, []).append(path)

    def model(self, model: Mapping[str, object], inputs: Sequence[Value], place: _Place, depth: int) -> Value:
        if depth > _MAX_DEPTH:
            raise Problem("its models are nested without end")
        config = _table(model.get("config"))
        layers = _layers(config)
        spots = dict(zip((id(layer) for layer in layers), self._spots(layers, place), strict=True))
        if model.get("class_name") == "Sequential":
            value = inputs[0]
            for layer in layers:
                value = self._call(layer, [value], {}, spots[id(layer)], depth)
            return value
        return self._functional(config, layers, inputs, spots, depth)

    def _functional(
        self,
        config: Mapping[str, object],
        layers: Sequence[Layer],
        inputs: Sequence[Value],
        spots: Mapping[int, _Place],
        depth: int,
    ) -> Value:
        """Calls are made as soon as what they take is there: a layer may be called again and again."""
        fed = iter(inputs)
        values = {(layer.name, 0): next(fed) for layer in layers if layer.kind == "InputLayer"}
        ends, calls = _histories(config.get("output_layers")), {layer.name: list(_calls(layer)) for layer in layers}
        named = {source for each in calls.values() for sources, _ in each for source in (*sources, *ends)}
        waiting = [
            (layer, number, call)
            for layer in layers
            if layer.kind != "InputLayer"
            for number, call in enumerate(calls[layer.name], _first_number(layer, len(calls[layer.name]), named))
        ]
        while waiting:
            left = []
            for layer, number, (sources, extra) in waiting:
                if all(source in values for source in sources):
                    taken = [values[source] for source in sources]
                    values[layer.name, number] = self._call(layer, taken, extra, spots[id(layer)], depth)
                else:
                    left.append((layer, number, (sources, extra)))
            if len(left) == len(waiting):
                raise Problem("its layers wait for one another")
            waiting = left
        if len(ends) != 1 or ends[0] not in values:
            raise refused(f"a model with {len(ends)} outputs")
        return values[ends[0]]

    def _call(self, layer: Layer, inputs: list[Value], extra: Mapping[str, object], place: _Place, depth: int) -> Value:
        check_time()
        self.calls += 1
        if self.calls > _MAX_LAYERS:
            raise Problem("it calls more layers than any net")
        if layer.kind in _MODELS:
            return self.model({"class_name": layer.kind, "config": layer.config}, inputs, place, depth + 1)
        return self.writer.write(layer, inputs, extra, self._find(layer, place))

    def _find(self, layer: Layer, place: _Place) -> Mapping[str, str] | Sequence[str]:
        """The paths of the layer's arrays: one after another in a zip, by what they are in a `.h5`."""
        if self.file.zipped:
            folder = f"{place.folder}/vars"
            return sorted(self.listed.get(folder, ()), key=lambda path: int(path.removeprefix(f"{folder}/")))
        top, inside = f"{place.outer or layer.name}/", f"/{layer.name}/" if place.outer else "/"
        found: dict[str, str] = {}
        for path in self.listed.get(top.partition("/")[0], ()):
            if path.startswith(top) and inside in path[len(top) - 1 :]:
                name = path.rpartition("/")[2].partition(":")[0]
                if name in found:
                    raise Problem(f"two arrays of its layer {quoted(layer.name)} have the same name")
                found[name] = path
        return found

    def _spots(self, layers: Sequence[Layer], place: _Place) -> Iterator[_Place]:
        count: Counter[str] = Counter()
        for layer in layers:
            kind = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", layer.kind)).lower()
            number = count[kind]
            count[kind] += 1
            folder = "/".join(filter(None, (place.folder, "layers", f"{kind}_{number}" if number else kind)))
            named = self.file.names.get(f"{folder}/vars", "")
            if self.file.zipped and named and named != layer.name:
                raise Problem(f"its arrays are those of a layer {quoted(named)}, not of {quoted(layer.name)}")
            yield _Place(folder, place.outer or (layer.name if layer.kind in _MODELS else ""))


def _layers(config: Mapping[str, object]) -> list[Layer]:
    listed = config.get("layers")
    if not isinstance(listed, list) or len(listed) > _MAX_LAYERS:
        raise refused("a model without a list of layers")
    return [of(_table(entry)) for entry in listed]


def _table(value: object, *, optional: bool = False) -> Mapping[str, object]:
    if isinstance(value, list) and not optional:  # a Sequential of old is its layers alone
        return {"layers": value}
    if not isinstance(value, dict):
        if optional:
            return {}
        raise refused("a configuration of another form")
    return value


def _first_number(layer: Layer, count: int, named: set[tuple[str, int]]) -> int:
    """Of its calls: Keras 2 counts a model that was made before as called once more."""
    return int(layer.kind in _MODELS and (layer.name, count) in named)


def _calls(layer: Layer) -> Iterator[tuple[list[tuple[str, int]], Mapping[str, object]]]:
    """Of one layer: what each takes, and what else it is given."""
    for call in layer.inbound:
        if isinstance(call, dict):
            yield _histories(call.get("args")), _table(call.get("kwargs"), optional=True)
        else:
            entries = [call] if isinstance(call[0], str) else call
            extra = [part for entry in entries for part in entry[3:] if isinstance(part, dict)]
            yield [(str(entry[0]), int(entry[1])) for entry in entries], extra[0] if extra else {}


def _histories(value: object) -> list[tuple[str, int]]:
    """The layers, and the number of their call, that tensors come from, in the order in which they stand."""
    if isinstance(value, dict):
        history = _table(value.get("config"), optional=True).get("keras_history")
        return _histories(history) if history is not None else []
    if not isinstance(value, list):
        return []
    if len(value) == 3 and isinstance(value[0], str):
        return [(value[0], int(value[1]))]
    return [pair for part in value for pair in _histories(part)]
