"""The graph of an exported program, as JSON tells it, followed node by node."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from bdscan.facts.problem import Problem
from bdscan.load.exported.weights import TYPES, Named
from bdscan.load.graph import operators
from bdscan.load.graph.record import Recorder, Value
from bdscan.load.pickle.effects import quoted
from bdscan.load.pickle.rebuild import torch_dtype

_FRACTIONS = ("float16", "float32", "float64", "bfloat16")
_PYTHON = {  # sums on sizes, under the names that TorchScript has for them
    **{f"_operator.{name}": name for name in ("add", "sub", "mul", "floordiv", "neg")},
    **{f"_operator.{name}": name for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{"_operator.truediv": "div", "_operator.mod": "remainder", "_operator.pow": "pow"},
    **{"_operator.and_": "__and__", "_operator.or_": "__or__", "torch.sym_not": "__not__"},
    **{f"math.{name}": name for name in ("ceil", "floor", "trunc")},
    **{"torch.sym_max": "max", "torch.sym_min": "min", "torch.sym_int": "Int", "torch.sym_float": "Float"},
}
_CHECKS = ("_assert_", "sym_constrain_range", "_functional_assert_", "_functional_sym_constrain_range")
_PLAIN = ("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools", "as_strings")


@dataclass(frozen=True)
class Program:
    """The parts of the JSON that say what is computed."""

    graph: Mapping[str, Any]
    signature: Mapping[str, Any]

    @classmethod
    def of(cls, text: Mapping[str, Any]) -> Program:
        module = text["graph_module"]
        return cls(module["graph"], module["signature"])

    @property
    def image(self) -> str:
        """The name of the one input."""
        inputs = [spec["user_input"]["arg"] for spec in self.signature["input_specs"] if "user_input" in spec]
        if len(inputs) != 1 or "as_tensor" not in inputs[0]:
            raise Problem(f"it takes {len(inputs)} inputs: no image classifier")
        return str(inputs[0]["as_tensor"]["name"])

    @property
    def dims(self) -> list[tuple[int, bool]]:
        """Of the input, batch first: what each was when it was exported, and whether it is free."""
        meta = self.graph["tensor_values"][self.image]
        if TYPES.get(meta["dtype"]) not in _FRACTIONS:
            hint = "export the net without the conversion from bytes"
            raise Problem("it does not take floating-point images", hint=hint)
        dims = [_dim(side) for side in meta["sizes"]]
        if not 2 <= len(dims) <= 4:
            raise Problem(f"its input has {len(dims)} dimensions, images have 4, or 2 in a row")
        return dims

    @property
    def unknown(self) -> list[str]:
        """Every operator that stands in the way."""
        targets = {str(node["target"]) for node in self.graph["nodes"]}
        return sorted(target for target in targets if not _skipped(target) and not operators.known(_functional(target)))


def _dim(side: Mapping[str, Any]) -> tuple[int, bool]:
    if "as_int" in side:
        return int(side["as_int"]), False
    hint = side["as_expr"].get("hint") or {}
    return int(hint.get("as_int", 0)), True


def _operator(target: str) -> str:
    if target.startswith("torch.ops.aten."):
        return target.split(".")[3]
    return _PYTHON.get(
        target.replace("operator.", "_operator.", 1) if target.startswith("operator.") else target, target
    )


def _functional(target: str) -> str:
    op = _operator(target)
    return op[:-1] if op.endswith("_") and not op.endswith("__") else op


def _skipped(target: str) -> bool:
    return _operator(target).startswith(_CHECKS)


class Follower:
    """One way through the graph."""

    def __init__(self, program: Program, tensors: Named, constants: Named, recorder: Recorder) -> None:
        self._program, self._recorder = program, recorder
        self._values: MutableMapping[str, object] = {}
        for spec in program.signature["input_specs"]:
            ((kind, each),) = spec.items()
            if kind in ("parameter", "buffer"):
                name = str(each[f"{kind}_name"])
                source = tensors if name in tensors else constants  # a buffer that is not persistent lies there
                self._hold(each["arg"]["name"], name, source)
            elif kind == "tensor_constant":
                self._hold(each["arg"]["name"], str(each["tensor_constant_name"]), constants)
            elif kind == "constant_input":
                self._values[each["name"]] = _constant(each["value"])
            elif kind != "user_input":
                raise Problem(f"it is given {quoted(kind)}, which no image classifier needs")

    def _hold(self, place: str, name: str, source: Named) -> None:
        if name not in source:
            raise Problem(f"its tensor {quoted(name)} is missing")
        tensor, trainable = source[name]
        self._values[place] = self._recorder.hold(tensor, name, trainable=trainable)

    def follow(self, image: Value) -> object:
        """What the first output is."""
        self._values[self._program.image] = image
        nodes = self._program.graph["nodes"]
        last = {name: i for i, node in enumerate(nodes) for name in _names(node["inputs"])}
        outputs = self._outputs()
        for i, node in enumerate(nodes):
            if not _skipped(node["target"]):
                self._step(node)
            for name in _names(node["inputs"]):
                if last[name] == i and name not in outputs:
                    self._values.pop(name, None)
        return [self._values[name] for name in outputs]

    def _outputs(self) -> list[str]:
        names = []
        for spec in self._program.signature["output_specs"]:
            ((kind, each),) = spec.items()
            if kind != "user_output":
                raise Problem("it changes tensors of its own while it answers")
            if "as_tensor" in each["arg"]:
                names.append(str(each["arg"]["as_tensor"]["name"]))
        if not names:
            raise Problem("it gives no tensor: no image classifier")
        return names

    def _step(self, node: Mapping[str, Any]) -> None:
        positional, named = [], {}
        for each in node["inputs"]:
            if each.get("kind", 1) == 1:
                positional.append(self._argument(each["arg"]))
            else:
                named[each["name"]] = self._argument(each["arg"])
        result = self._recorder.call(_operator(node["target"]), *positional, **named)
        names = [name for output in node["outputs"] for name in _names_in(output)]
        parts = result if isinstance(result, list | tuple) else [result]
        self._values.update(zip(names, parts, strict=False))

    def _argument(self, arg: Mapping[str, Any]) -> object:
        ((kind, value),) = [(kind, value) for kind, value in arg.items() if value is not None or kind == "as_none"]
        if kind in _PLAIN:
            return value
        if kind == "as_tensor":
            return self._values[value["name"]]
        if kind in ("as_tensors", "as_optional_tensors"):
            return [self._values[_tensor_name(each)] if _tensor_name(each) else None for each in value]
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            return self._symbol(value)
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return [self._symbol(each) for each in value]
        if kind == "as_scalar_type":
            return torch_dtype(TYPES[value])
        if kind in ("as_none", "as_memory_format", "as_layout", "as_device"):
            return None
        if kind == "as_optional_tensor":
            return self._argument(value)
        raise Problem(f"one of its nodes is given {quoted(kind)}, which no image classifier needs")

    def _symbol(self, value: Mapping[str, Any]) -> object:
        ((kind, each),) = value.items()
        return self._values[each] if kind == "as_name" else each


def _tensor_name(each: Mapping[str, Any]) -> str:
    return str((each.get("as_tensor") or each).get("name") or "")


def _names(inputs: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for each in inputs for name in _names_in(each["arg"])]


def _names_in(arg: object) -> list[str]:
    """Every value that an argument or an output speaks of."""
    if isinstance(arg, list):
        return [name for each in arg for name in _names_in(each)]
    if not isinstance(arg, dict):
        return []
    own = [str(arg[key]) for key in ("name", "as_name") if isinstance(arg.get(key), str)]
    return own or [name for value in arg.values() for name in _names_in(value)]


def _constant(value: Mapping[str, Any]) -> object:
    ((kind, each),) = value.items()
    return None if kind == "as_none" else each
