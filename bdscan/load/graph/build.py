"""What was recorded, as a net: operations with weights as layers, all others as operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bdscan.facts.problem import Problem
from bdscan.load.arch.bounded import OutOfProportion
from bdscan.load.graph import operators
from bdscan.load.graph.layers import input_of, layer
from bdscan.load.graph.net import Step, StepNet
from bdscan.load.graph.rebuilt import Rebuilt, Shape, orders
from bdscan.load.graph.record import Operation, Recorder, Ref, Value

_MAX_NUMBERS = 1 << 28  # in one tensor whose size is worked out anew for each batch: 1 GB
_SOFTMAX = frozenset({"softmax", "_softmax", "log_softmax", "_log_softmax"})


@dataclass(frozen=True, eq=False)
class Built:
    """The net, and the tensors of the file that it is made of."""

    net: StepNet
    origins: Mapping[str, Tensor]  # of the net's tensors that are the file's: as they lie there
    used: int  # tensors of the file
    answer: Tensor  # for the images that were followed, without memory
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Followed:
    """The net of a program, and the images that the program was followed with."""

    built: Built
    shape: Shape
    fixed: bool  # whether it takes images of that size only
    total: int  # tensors of fractions in the file

    def rebuilt(self, name: str) -> Rebuilt:
        return Rebuilt(
            net=self.built.net,
            name=name,
            tensors_used=self.built.used,
            tensors_total=self.total,
            shape=self.shape if self.fixed or self.built.net.entry.axes < 4 else None,
            sizes=tuple(dict.fromkeys((self.shape[1], *Rebuilt.sizes))),
            notes=self.built.notes,
            variants=orders(self.built.net, self.shape),
        )


@dataclass(frozen=True)
class _Slot:
    """The place of what comes in as the net runs."""

    number: int


@dataclass(frozen=True)
class _Own:
    """The place of a tensor that the operator holds."""

    name: str


class Operator(nn.Module):
    """An operation without a layer of its own in torch; the file's tensors in it are its parameters and buffers."""

    def __init__(self, operation: Operation, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.op, self.inputs = operation.op, operation.inputs
        self._sized = any(isinstance(leaf, Ref) and leaf.rank < 0 for leaf in _leaves(operation))
        for i, tensor in enumerate(tensors):
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(f"constant_{i}", tensor)
            else:
                self.register_buffer(f"constant_{i}", tensor)
        slots, own = iter(range(len(self.inputs))), iter(range(len(tensors)))

        def place(leaf: object) -> object:
            if isinstance(leaf, Ref):
                return _Slot(next(slots))
            return _Own(f"constant_{next(own)}") if isinstance(leaf, Tensor) else leaf

        self._arguments = tree_map(place, [list(operation.arguments), dict(operation.named)])

    def extra_repr(self) -> str:
        return self.op

    def forward(self, *values: object) -> object:
        def filled(leaf: object) -> object:
            if isinstance(leaf, _Slot):
                return values[leaf.number]
            return getattr(self, leaf.name) if isinstance(leaf, _Own) else leaf

        arguments, named = tree_map(filled, self._arguments)
        device = values[-1].device if isinstance(values[-1], Tensor) else torch.device("cpu")
        if self._sized and self.op not in operators.SHAPED:
            _weigh(self.op, arguments, named)
        result = operators.apply(self.op, arguments, named, device)
        return tuple(result) if isinstance(result, tuple | list) else result


def _weigh(op: str, arguments: Sequence[object], named: Mapping[str, object]) -> None:
    """What was in proportion for the images that were tried may grow beyond it with more of them."""
    meta = torch.device("meta")
    leaves = tree_leaves((arguments, named))
    if all(isinstance(leaf, int | float) for leaf in leaves) and op not in operators.FACTORIES:
        return
    without = tree_map(lambda leaf: leaf.to(meta) if isinstance(leaf, Tensor) else leaf, [arguments, named])
    results = tree_leaves(operators.apply(op, without[0], without[1], meta))
    if any(part.numel() > _MAX_NUMBERS for part in results if isinstance(part, Tensor)):
        raise OutOfProportion("a tensor whose size the number of images says is out of proportion")


def build(recorder: Recorder, image: Value, answer: object) -> Built:
    """The net that leads from the image to the answer."""
    notes: tuple[str, ...] = ()
    if isinstance(answer, tuple | list) and answer:
        notes = (f"only the first of {len(answer)} outputs is judged",) if len(answer) > 1 else ()
        answer = answer[0]
    now = answer.now if isinstance(answer, Value) and answer.image else None
    if not isinstance(answer, Value) or not isinstance(now, Tensor) or now.dim() != 2:
        raise Problem("it gives no row of numbers for each image: no classifier")
    operations, output, left_out = _without_softmax(recorder.operations, answer.name, image.name)
    builder = _Builder(recorder, image.name, output, _leading_to(output, operations))
    for operation in builder.operations:
        builder.add(operation)
    builder.net.close()
    builder.net.eval()
    return Built(builder.net, builder.origins, len(builder.used), now, (*notes, *left_out))


def _without_softmax(
    operations: Sequence[Operation], output: str, image: str
) -> tuple[Sequence[Operation], str, tuple[str, ...]]:
    """The name of the logits, and what was left out behind them."""
    makers = {name: operation for operation in operations for name in operation.outputs}
    notes: tuple[str, ...] = ()
    while (maker := makers.get(output)) is not None and maker.op in (*_SOFTMAX, "dropout") and maker.inputs != (image,):
        if maker.op in _SOFTMAX:
            notes = (f"the net's last `{maker.op.strip('_')}` was left out: bdscan works on logits",)
        output = maker.inputs[0]
    return operations, output, notes


def _leading_to(output: str, operations: Sequence[Operation]) -> list[Operation]:
    needed, kept = {output}, []
    for operation in reversed(operations):
        if not needed.isdisjoint(operation.outputs):
            needed |= set(operation.inputs)
            kept.append(operation)
    return kept[::-1]


class _Builder:
    def __init__(self, recorder: Recorder, image: str, output: str, operations: list[Operation]) -> None:
        self.net = StepNet(image, output, recorder.entry)
        self.operations = _merged(operations, output)
        self.origins: dict[str, Tensor] = {}
        self.used: set[str] = set()  # names of the file's tensors
        self._recorder = recorder
        self._uses = Counter(name for operation in self.operations for name in operation.inputs)
        self._uses[output] += 1
        self._tensors: dict[tuple[object, ...], Tensor] = {}  # one for all uses of one tensor of the file
        self._origins: dict[int, Tensor] = {}  # by the identity of the net's own tensor

    def add(self, operation: Operation) -> None:
        if not operation.image and not any(_is_weight(leaf) for leaf in _leaves(operation)):
            tensors = [leaf for leaf in _leaves(operation) if isinstance(leaf, Tensor)]
            inputs = (*operation.inputs, self.net.image) if operation.op in operators.FACTORIES else operation.inputs
            self.net.steps.append(Step("", Operator(operation, tensors), inputs, operation.outputs))
            return
        module = self._layer(operation)
        if module is not None:
            self._add(operation, module, (input_of(operation).name,), operation.outputs[:1])
        else:
            tensors = [self._tensor(leaf) for leaf in _leaves(operation) if isinstance(leaf, Tensor)]
            self._add(operation, Operator(operation, tensors), operation.inputs, operation.outputs)

    def _layer(self, operation: Operation) -> nn.Module | None:
        if any(self._uses[name] for name in operation.outputs[1:]):
            return None
        return layer(operation, lambda tensor: self._tensor(tensor, trainable=True), self._tensor)

    def _add(self, operation: Operation, module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        held = [self._recorder.holding(leaf) for leaf in _leaves(operation) if isinstance(leaf, Tensor)]
        self.used |= {each.name for each in held if each is not None}
        places = [each.name.rpartition(".")[0] for each in held if each is not None]
        self.net.add(next(filter(None, places), "") or operation.op.strip("_"), module, inputs, outputs)
        child = self.net.steps[-1].child
        for name, tensor in module.state_dict(keep_vars=True).items():
            if id(tensor) in self._origins:
                self.origins[f"{child}.{name}"] = self._origins[id(tensor)]

    def _tensor(self, tensor: Tensor, *, trainable: bool = False) -> Tensor:
        """The net's own for one of the file's, or for one worked out of them."""
        held = self._recorder.holding(tensor)
        trainable = tensor.is_floating_point() and (trainable or (held is not None and held.trainable))
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, trainable)
        if key not in self._tensors:
            own = tensor.detach().clone(memory_format=torch.contiguous_format)
            self._tensors[key] = nn.Parameter(own) if trainable else own
            if held is not None:
                self._origins[id(self._tensors[key])] = _origin(tensor, held.tensor, held.original)
        return self._tensors[key]


def _origin(tensor: Tensor, held: Tensor, original: Tensor) -> Tensor:
    """The same part of the tensor as it lies in the file."""
    offset = tensor.storage_offset() - held.storage_offset() + original.storage_offset()
    return original.as_strided(tensor.shape, tensor.stride(), offset)


def _merged(operations: list[Operation], output: str) -> list[Operation]:
    """A product with a constant and the sum after it are one linear layer, as old versions of torch wrote it."""
    readers: dict[str, list[Operation]] = {output: []}
    for operation in operations:
        for name in operation.inputs:
            readers.setdefault(name, []).append(operation)
    result, replaced = [], set[int]()
    for operation in operations:
        if id(operation) in replaced:
            continue
        following = readers.get(operation.outputs[0], [])
        joined = _joined(operation, following[0]) if len(following) == 1 and operation.outputs[0] != output else None
        if joined is not None:
            replaced.add(id(following[0]))
        result.append(joined or operation)
    return result


def _joined(product: Operation, addition: Operation) -> Operation | None:
    if product.op not in ("matmul", "mm") or addition.op != "add" or len(product.inputs) != 1:
        return None
    weight = product.arguments[1]
    biases = [part for part in addition.arguments[:2] if isinstance(part, Tensor)]
    plain = all(part == 1 for part in (*addition.arguments[2:], *addition.named.values()))
    if not isinstance(weight, Tensor) or weight.dim() != 2 or len(biases) != 1 or not plain:
        return None
    if biases[0].shape != weight.shape[1:]:
        return None
    arguments = (product.arguments[0], weight.t(), biases[0])
    return Operation("linear", arguments, {}, addition.outputs, product.image)


def _leaves(operation: Operation) -> list[object]:
    return tree_leaves((list(operation.arguments), dict(operation.named)))


def _is_weight(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() > 1
