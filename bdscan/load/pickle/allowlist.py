"""Which globals a model file may ask for, and what each may be given; everything else is unknown or dangerous.

The verdict rests on what is vouched for, name by name. A name that calls what it is given, imports, fetches an
attribute or opens a file is vouched for only with the very arguments that honest files give it. Every standard-library
name outside the list counts as dangerous, because no model needs one; the published block-lists (fickling's,
picklescan's) are parts of that rule and fall behind it, so none is a dependency. Outside the standard library the names
known to load or compile code are dangerous, and the rest is unknown.
"""

from __future__ import annotations

import json
import re
import sys
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

from bdscan.load.pickle import arguments as given
from bdscan.load.pickle.records import DTYPES, CallRecord, GlobalName


class Trust(IntEnum):
    PLAIN = 0  # tensors and containers: `torch.load(weights_only=True)` takes them
    HARMLESS = 1  # harmless, but `weights_only` refuses it
    UNKNOWN = 2
    DANGEROUS = 3


@dataclass(frozen=True)
class Vouched:
    """What is known of a name: how far it may be believed, what it may be given, what may be put into its result."""

    trust: Trust
    takes: Callable[[CallRecord], bool] | None = None  # whether honest files call it so; None: they only name it
    holds: str = ""  # of what it makes: a (s)tate, (k)eys with values, (l)ist items
    otherwise: Trust = Trust.UNKNOWN  # where it is called with something else
    only_called: bool = False  # it must not be handed on either: whoever gets it could call it


def _all(names: str, vouched: Vouched) -> dict[str, Vouched]:
    return dict.fromkeys(names.split(), vouched)


def _plain(takes: Callable[[CallRecord], bool] | None = None, holds: str = "") -> Vouched:
    return Vouched(Trust.PLAIN, takes, holds)


def _known(takes: Callable[[CallRecord], bool] | None = None, holds: str = "") -> Vouched:
    return Vouched(Trust.HARMLESS, takes, holds)


def _trap(takes: Callable[[CallRecord], bool], holds: str = "", trust: Trust = Trust.HARMLESS) -> Vouched:
    """A name that would do anything if it were given anything."""
    return Vouched(trust, takes, holds, Trust.DANGEROUS, only_called=True)


_NAMED = _known()
_OBJECT = _known(given.object_of_class, "s")
_TABLE = _known(given.contents, "sk")  # a dict of a class of its own
_STORAGE_KINDS = " ".join(f"{name}Storage" for name in DTYPES)
_FUNCTIONS = (
    "relu relu6 gelu silu elu selu celu leaky_relu hardtanh hardswish hardsigmoid softmax log_softmax mish softplus "
    "tanh sigmoid logsigmoid hardshrink tanhshrink softsign"
)
_NUMPY_SCALARS = (
    "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128 str_ bytes_"
)
_NUMPY_ARRAYS = {
    "_reconstruct": _trap(given.array_to_be, "s"),
    "scalar": _trap(given.number_in_bytes),
}
_NUMPY_BUFFERS = {"_frombuffer": _trap(given.array_in_bytes)}
_GRAD_SCALER = {
    "GradScaler": _OBJECT,
    "OptState": _known(given.one_value),
    "_refresh_per_optimizer_state": _NAMED,
}
_TYPED_TENSORS = {"_rebuild_from_type_v2": _trap(given.typed_tensor, trust=Trust.PLAIN), "Tensor": _plain()}
_VOUCHED: dict[str, dict[str, Vouched]] = {
    "collections": {
        "OrderedDict": _plain(given.contents, "sk"),
        "Counter": _plain(given.contents, "k"),
        "defaultdict": _plain(given.default_and_contents, "sk"),
        "deque": _plain(given.contents_and_size, "l"),
    },
    "builtins": {
        **_all("set frozenset list dict tuple", _plain(given.contents)),
        **_all("complex int float bool str slice range", _plain(given.nothing_but_literals)),
        **_all("bytes bytearray", _plain(given.bytes_of_text)),
        "object": _plain(given.nothing, "s"),
        "Ellipsis": _NAMED,
        "NotImplemented": _NAMED,
        "type": _trap(given.none),
        "getattr": _trap(given.known_attribute),
    },
    "_codecs": {"encode": _trap(given.latin_text, trust=Trust.PLAIN)},
    "torch": {
        "Size": _plain(given.contents),
        "device": _plain(given.nothing_but_literals),
        "Tensor": _plain(),
        "dtype": _plain(),
        **_all("strided sparse_coo contiguous_format channels_last channels_last_3d preserve_format", _plain()),
        **_all(" ".join(sorted({name for name, _ in DTYPES.values()} | {"half", "float", "double", "long"})), _plain()),
        **_all("int short bool uint16 uint32 uint64 float8_e4m3fn float8_e5m2 quint4x2 quint2x4", _plain()),
        **_all("per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric", _plain()),
        **_all(_STORAGE_KINDS, _plain()),
        **_all(
            "FloatTensor DoubleTensor HalfTensor BFloat16Tensor LongTensor IntTensor ByteTensor BoolTensor", _plain()
        ),
        "Generator": _known(given.tensor_parts),
        **_all("relu sigmoid tanh softmax", _NAMED),
    },
    "torch.cuda": _all(f"{_STORAGE_KINDS} FloatTensor HalfTensor LongTensor", _plain()),
    "torch._utils": {
        **_all(
            "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_qtensor "
            "_rebuild_sparse_tensor _rebuild_meta_tensor_no_storage _rebuild_device_tensor_from_numpy "
            "_rebuild_device_tensor_from_cpu_tensor",
            _plain(given.tensor_parts),
        ),
        "_rebuild_parameter_with_state": _plain(given.parameter_with_names),
    },
    "torch._tensor": _TYPED_TENSORS,
    "torch.tensor": _TYPED_TENSORS,
    "torch.nn.parameter": _all(
        "Parameter Buffer UninitializedParameter UninitializedBuffer", _plain(given.tensor_parts)
    ),
    "torch.storage": {
        **_all("TypedStorage UntypedStorage _TypedStorage _UntypedStorage", _plain()),
        "_load_from_bytes": _trap(given.packed_bytes),  # which are followed as a file of their own
    },
    "torch.serialization": {"_get_layout": _plain(given.nothing_but_literals)},
    "torch.jit._pickle": _all(
        "build_intlist build_doublelist build_boollist build_tensorlist restore_type_tag", _plain(given.anything)
    ),
    "copyreg": {
        "_reconstructor": _trap(given.class_and_base, "skl"),
        "__newobj__": _trap(given.named_class, "skl"),
        "__newobj_ex__": _trap(given.named_class, "skl"),
    },
    "argparse": {"Namespace": _OBJECT},
    "types": {"SimpleNamespace": _OBJECT},
    "typing": _all("Any Optional Union List Dict Tuple Callable Iterable Sequence", _NAMED),
    "collections.abc": _all(
        "Callable Collection Container Hashable Iterable Iterator Generator Mapping MutableMapping MutableSequence "
        "MutableSet Sequence Set Sized Reversible ByteString KeysView ItemsView ValuesView",
        _NAMED,
    ),
    "pathlib": _all(
        "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath", _known(given.nothing_but_literals)
    ),
    "datetime": _all("datetime date time timedelta timezone", _known(given.literals_or_records)),
    "decimal": {"Decimal": _known(given.nothing_but_literals)},
    "fractions": {"Fraction": _known(given.nothing_but_literals)},
    "uuid": {"UUID": _OBJECT},
    "functools": {"partial": _known(given.named_function, "s")},  # it calls nothing before somebody calls it
    "logging": {"getLogger": _known(given.nothing_but_literals)},
    "numpy": {
        "dtype": _known(given.number_type, "s"),
        "ndarray": _NAMED,
        **_all(_NUMPY_SCALARS, _known(given.nothing_but_literals)),
    },
    "numpy.core.multiarray": _NUMPY_ARRAYS,
    "numpy._core.multiarray": _NUMPY_ARRAYS,
    "numpy.core.numeric": _NUMPY_BUFFERS,
    "numpy._core.numeric": _NUMPY_BUFFERS,
    "numpy.random._pickle": {
        "__randomstate_ctor": _trap(given.random_bits, "s"),
        "__generator_ctor": _trap(given.random_bits, "s"),
        "__bit_generator_ctor": Vouched(Trust.HARMLESS, given.random_bits, "s", Trust.DANGEROUS),
    },
    "numpy.random.bit_generator": {
        "SeedSequence": _NAMED,
        "__pyx_unpickle_SeedSequence": _trap(given.named_class, "s"),
    },
    **{f"numpy.random._{name.lower()}": {name: _NAMED} for name in ("MT19937", "PCG64", "Philox", "SFC64")},
    "PIL.Image": {"Image": _OBJECT},
    "PIL.PngImagePlugin": {"PngImageFile": _OBJECT},
    "PIL.JpegImagePlugin": {"JpegImageFile": _OBJECT},
    "omegaconf.dictconfig": {"DictConfig": _OBJECT},
    "omegaconf.listconfig": {"ListConfig": _OBJECT},
    "omegaconf.base": _all("ContainerMetadata Metadata", _OBJECT),
    "omegaconf.nodes": _all("AnyNode IntegerNode FloatNode StringNode BooleanNode PathNode", _OBJECT),
    "torch.nn.functional": _all(_FUNCTIONS, _NAMED),
    "torch._C._nn": _all("gelu linear silu", _NAMED),
    "torch.nn.backends.thnn": {"_get_thnn_function_backend": _known(given.nothing)},
    "torch.cuda.amp.grad_scaler": _GRAD_SCALER,
    "torch.amp.grad_scaler": _GRAD_SCALER,
    "sklearn.utils": {"Bunch": _TABLE},
    "sklearn.utils._bunch": {"Bunch": _TABLE},
    "sklearn.preprocessing.label": _all("LabelEncoder LabelBinarizer MultiLabelBinarizer", _OBJECT),
    "sklearn.preprocessing.data": _all("StandardScaler MinMaxScaler RobustScaler Normalizer", _OBJECT),
    **{
        f"{package}.{module}": {"AttributeDict": _TABLE}
        for package in ("pytorch_lightning", "lightning.pytorch")
        for module in ("utilities.parsing", "utilities.data")
    },
    "lightning_fabric.utilities.data": {"AttributeDict": _TABLE},
    "lightning.fabric.utilities.data": {"AttributeDict": _TABLE},
    **{
        f"{package}.callbacks.{module}": {name: _NAMED}  # keys of their states
        for package in ("pytorch_lightning", "lightning.pytorch")
        for module, name in (("model_checkpoint", "ModelCheckpoint"), ("early_stopping", "EarlyStopping"))
    },
    "transformers.training_args": {"TrainingArguments": _OBJECT, "OptimizerNames": _known(given.one_value)},
    "transformers.trainer_utils": _all(
        "IntervalStrategy EvaluationStrategy HubStrategy SchedulerType SaveStrategy FSDPOption",
        _known(given.one_value),
    ),
    "transformers.trainer_pt_utils": {"AcceleratorConfig": _OBJECT},
    "accelerate.state": _all("PartialState AcceleratorState", _OBJECT),
    "accelerate.utils.dataclasses": {"DistributedType": _known(given.one_value)},
}
_ENUM = _known(given.one_value)
_LOADERS = re.compile(  # read files, fetch, compile or run code
    r"(torch\.(hub|jit|_dynamo|_inductor|package|fx|compile|load|serialization|storage\._load_from_bytes|ops|library|classes"
    r"|utils\.(cpp_extension|_config_module|bottleneck|collect_env|model_zoo|data\.datapipes|show_pickle)|distributed|multiprocessing|export|_export)"
    r"|numpy\.(load|loadtxt|fromfile|memmap|save|savetxt|genfromtxt|testing|f2py|distutils|ctypeslib|lib\.npyio)"
    r"|(pip|setuptools|pkg_resources|_distutils_hack|distutils|dill|cloudpickle|joblib|pandas\.(eval|io|read_\w+)|IPython|jupyter\w*"
    r"|requests|urllib3|aiohttp|httpx|paramiko|fabric|pexpect|sh|plumbum|cffi|numba|tensorflow|keras|transformers\.pipeline"
    r"|commands|mitogen|invoke|psutil|nose|pytest|_pytest|py|hypothesis|asyncssh|jinja2|yaml|sympy|huggingface_hub)"
    # modules of other versions of Python
    r"|(_bootlocale|_pyrepl|asynchat|asyncore|cgitb|imp|lib2to3|nntplib|pipes|smtpd|telnetlib|test\.support|turtledemo))(\.|$)"
)


def vouched(global_name: GlobalName) -> Vouched | None:
    """What the list says of a name; None where it says nothing."""
    known = _VOUCHED.get(global_name.module, {}).get(global_name.name)
    if known is None and global_name.name in (names := _classes().get(global_name.module, {})):
        known = _ENUM if names[global_name.name] else _OBJECT
    return known


def trust_in(global_name: GlobalName, *, torchscript: bool = False) -> Trust:
    """How far the file may be believed when it asks for this, whatever it does with it."""
    known = vouched(global_name)
    if known is not None:
        return known.trust
    root = global_name.module.split(".")[0]
    if root == "__torch__" and torchscript:  # code inside the archive, not a Python module
        return Trust.PLAIN
    # A dotted name reaches through a module: "importlib.import_module" of whatever imports importlib.
    through = re.search(r"(^|\.)([a-z]|__)\w*\.", global_name.name)
    python = root in sys.stdlib_module_names or root in IMPORT_MAPPING  # of Python 3, of Python 2
    return Trust.DANGEROUS if through or python or root == "?" or _LOADERS.match(str(global_name)) else Trust.UNKNOWN


@cache
def _classes() -> dict[str, dict[str, bool]]:
    """Module -> the classes that it defines, and whether each is an enumeration."""
    listed = json.loads(Path(__file__).with_name("vouched_classes.json").read_text(encoding="utf-8"))
    return {
        module: {name.removesuffix("="): name.endswith("=") for name in names.split()}
        for module, names in listed.items()
    }
