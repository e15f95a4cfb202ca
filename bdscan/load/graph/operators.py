"""The operators that a file's graph may use: pure functions of tensors and shapes, as torch itself has them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

DTYPES = (  # as TorchScript counts them; None: of no use to a classifier
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64),
    *(None, None, None, torch.bool, None, None, None, torch.bfloat16),
)
_MAX_NUMBER = 1 << 63  # whole numbers are of 64 bits in torch
# What decides about memory and gradients only, and is settled by where the net runs.
IGNORED = frozenset({"device", "layout", "memory_format", "pin_memory", "non_blocking", "copy"})
_PURE = """
abs add addcmul addcdiv sub rsub mul div true_divide floor_divide remainder fmod neg pow square sqrt rsqrt exp
expm1 log log2 log10 log1p erf sin cos tan atan atan2 asin acos sinh cosh tanh sigmoid reciprocal sign floor ceil
round trunc frac clamp clip clamp_min clamp_max minimum maximum lerp eq ne lt le gt ge logical_and logical_or
logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor __and__ __or__ where masked_fill isnan
isinf isfinite nan_to_num fill zero copy
relu relu6 leaky_relu prelu _prelu_kernel elu selu celu silu gelu mish glu hardswish hardsigmoid hardtanh
hardshrink softshrink softplus log_sigmoid threshold softmax _softmax log_softmax _log_softmax softmin
mean sum prod amax amin max min argmax argmin all any std var std_mean var_mean norm linalg_vector_norm
frobenius_norm logsumexp cumsum cumprod topk sort argsort median
conv1d conv2d conv3d convolution _convolution _convolution_mode conv_transpose2d
linear addmm addbmm baddbmm mm bmm matmul mv dot
einsum outer bilinear batch_norm native_batch_norm cudnn_batch_norm _native_batch_norm_legit_no_training
instance_norm layer_norm native_layer_norm group_norm native_group_norm rms_norm max_pool1d max_pool2d
max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
_adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d scaled_dot_product_attention embedding
cosine_similarity pairwise_distance cdist grid_sampler grid_sampler_2d affine_grid_generator
upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa
pixel_shuffle pixel_unshuffle channel_shuffle im2col unfold
view reshape _unsafe_view _reshape_alias view_as reshape_as flatten unflatten permute transpose t numpy_T movedim
swapaxes squeeze unsqueeze expand expand_as broadcast_to repeat repeat_interleave tile cat concat concatenate
stack hstack vstack split split_with_sizes tensor_split chunk unbind select slice narrow index index_select
gather take_along_dim scatter flip roll rot90 tril triu diagonal meshgrid atleast_2d one_hot
pad constant_pad_nd reflection_pad2d replication_pad2d
contiguous zeros_like ones_like full_like size sym_size numel sym_numel
"""
PURE = frozenset(_PURE.split())
NEW = {"new_zeros": "zeros", "new_ones": "ones", "new_full": "full"}
FACTORIES = frozenset({"zeros", "ones", "full", "arange", "linspace", "eye"})
# What gives the same tensor, perhaps in another place; `detach` must not keep the search for triggers out.
SAME = frozenset(["detach", "alias", "lift", "lift_fresh", "requires_grad_", "cpu", "cuda"])
COPIES = frozenset({"clone", "lift_fresh_copy"})  # the same until one of the two is changed
SHAPED = frozenset({"view", "reshape", "_unsafe_view", "_reshape_alias"})  # to a shape that is written out


def known(op: str) -> bool:
    return op in PURE or op in FACTORIES or op in NEW or op in SAME or op in COPIES or op in _SPECIAL or op in _SCALARS


def apply(op: str, arguments: Sequence[object], named: Mapping[str, object], device: torch.device) -> object:
    """The result of one operator, every fraction in it of 32 bits; `device`: of what is made out of nothing."""
    if op in _SCALARS and not any(isinstance(leaf, Tensor) for leaf in tree_leaves((arguments, dict(named)))):
        return _SCALARS[op](*arguments, **named)
    named = {key: _dtype(value) if key == "dtype" else value for key, value in named.items()}
    if op in _SPECIAL:
        result = _SPECIAL[op](*arguments, **named)
    else:
        function = getattr(torch.ops.aten, op)
        result = function(*arguments, **named, **({"device": device} if op in FACTORIES else {}))
    return tree_map_only(Tensor, as_float32, result)


def as_float32(tensor: Tensor) -> Tensor:
    """Every floating-point number as float32: half precision is for storage, double for nobody."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _dtype(value: object) -> object:
    return DTYPES[value] if type(value) is int else value


def _to(x: Tensor, *arguments: object, dtype: object = None, **_: object) -> Tensor:
    """Of all that it may be given, in whatever order, only the type counts."""
    for argument in arguments:
        if isinstance(argument, Tensor | torch.dtype) or type(argument) is int:
            dtype = argument.dtype if isinstance(argument, Tensor) else _dtype(argument)
            break
    return x.to(dtype) if isinstance(dtype, torch.dtype) else x


def _dropout(x: Tensor, _: object = 0.5, train: object = True) -> Tensor:
    if train:
        raise ValueError("it drops values at random: it was saved in training mode")
    return x


def _tensor(value: object, dtype: object = None, **_: object) -> Tensor:
    return torch.tensor(value, dtype=dtype)  # type: ignore[arg-type]


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    weight: Tensor,
    bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`_native_multi_head_attention`, which has no gradient of its own, in terms of what has."""
    if mask is not None or need_weights:
        raise ValueError("an attention with a mask, or whose weights are asked for")
    parts = zip((query, key, value), weight.chunk(3), bias.chunk(3), strict=True)
    split = [F.linear(*part).unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts]
    mixed = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    return F.linear(mixed, out_weight, out_bias), None


def _expand_batch(part: Tensor, like: Tensor) -> Tensor:
    """A class token written for a batch of one."""
    return part.expand(like.shape[0], *part.shape[1:])


def _whole(function: Callable[..., int | float | bool]) -> Callable[..., object]:
    """A sum on sizes; as in torch, a whole number has 64 bits."""

    def bounded(*numbers: object) -> object:
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError("it does sums with something that is no number")
        result = function(*numbers)
        if isinstance(result, int) and abs(result) >= _MAX_NUMBER:
            raise OverflowError("a whole number of more than 64 bits")
        return result

    return bounded


def _power(number: float, exponent: float) -> float:
    return math.pow(number, exponent) if isinstance(number, float) or exponent < 0 else _small_power(number, exponent)


def _small_power(number: float, exponent: float) -> float:
    if exponent * math.log2(abs(number) + 1) > 64:
        raise OverflowError("a whole number of more than 64 bits")
    return number**exponent  # type: ignore[no-any-return]


def _added(one: float, other: float, alpha: float = 1) -> float:
    return one + alpha * other


def _quotient(one: float, other: float, rounding_mode: str | None = None) -> float:
    roundings: Mapping[str | None, Callable[[float], float]] = {"floor": math.floor, "trunc": math.trunc, None: float}
    return roundings[rounding_mode](one / other)


_SPECIAL: Mapping[str, Callable[..., object]] = {
    "_native_multi_head_attention": _attention,
    "_to_copy": _to,
    "alpha_dropout": _dropout,
    "dropout": _dropout,
    "expand_batch": _expand_batch,
    "feature_dropout": _dropout,
    "scalar_tensor": _tensor,
    "tensor": _tensor,
    "NumToTensor": _tensor,
    "to": _to,
    "type_as": lambda x, other: x.to(other.dtype),
    "Int": lambda x: int(x.item()),
    "Float": lambda x: float(x.item()),
    "Bool": lambda x: bool(x.item()),
    "ScalarImplicit": lambda x: x.item(),
    "IntImplicit": lambda x: int(x.item()),
    "FloatImplicit": lambda x: float(x.item()),
    "item": lambda x: x.item(),
}
READING = frozenset({"Int", "Float", "Bool", "ScalarImplicit", "IntImplicit", "FloatImplicit", "item"})
_SUMS: Mapping[str, Callable[..., int | float | bool]] = {
    "Bool": bool,
    "Float": float,
    "FloatImplicit": float,
    "Int": int,
    "IntImplicit": int,
    "__and__": operator.and_,
    "__not__": operator.not_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "abs": abs,
    "add": _added,
    "ceil": math.ceil,
    "div": _quotient,
    "eq": operator.eq,
    "floor": math.floor,
    "floor_divide": operator.floordiv,
    "floordiv": operator.floordiv,
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
    "max": max,
    "min": min,
    "mul": operator.mul,
    "ne": operator.ne,
    "neg": operator.neg,
    "pow": _power,
    "remainder": operator.mod,
    "round": round,
    "sqrt": math.sqrt,
    "sub": lambda one, other, alpha=1: one - alpha * other,
    "trunc": math.trunc,
}
_SCALARS = {name: _whole(function) for name, function in _SUMS.items()}
