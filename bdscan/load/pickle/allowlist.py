"""Which globals a model file may ask for; everything else is either unknown or dangerous.

The verdict rests on what is vouched for. Every standard-library name outside the list counts as dangerous, because no
model needs one; the published block-lists (fickling's, picklescan's) are parts of that rule and fall behind it, so
none is a dependency. Outside the standard library the names known to load or compile code are dangerous, and the
rest is unknown.
"""

from __future__ import annotations

import re
import sys
from enum import IntEnum

from bdscan.load.pickle.records import GlobalName


class Trust(IntEnum):
    PLAIN = 0  # tensors and containers: `torch.load(weights_only=True)` takes them
    HARMLESS = 1  # harmless, but `weights_only` refuses it
    UNKNOWN = 2
    DANGEROUS = 3


_PLAIN = {
    "collections": "OrderedDict Counter defaultdict deque",
    "builtins": "set frozenset bytearray complex list dict tuple str int float bool bytes object slice range",
    "_codecs": "encode",
    "torch": "Size Tensor device dtype Generator strided contiguous_format channels_last preserve_format",
    "torch._utils": "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter "
    "_rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor _rebuild_meta_tensor_no_storage "
    "_rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor",
    "torch._tensor": "_rebuild_from_type_v2 Tensor",
    "torch.nn.parameter": "Parameter Buffer UninitializedParameter UninitializedBuffer",
    "torch.storage": "TypedStorage UntypedStorage",
    "torch.serialization": "_get_layout",
    "torch.jit._pickle": "build_intlist build_doublelist build_boollist build_tensorlist restore_type_tag",
}
_HARMLESS = {
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "typing": "Any Optional Union List Dict Tuple",
    "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "datetime": "datetime date time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID",
    "functools": "partial",  # what it wraps is judged by its own name
    "logging": "getLogger",
    "numpy": "dtype ndarray float64 float32 int64 int32 uint8 bool_",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "numpy.random._pickle": "__randomstate_ctor __generator_ctor __bit_generator_ctor",
    "PIL.Image": "Image",
    "PIL.PngImagePlugin": "PngImageFile",
    "omegaconf": "DictConfig ListConfig OmegaConf",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.base": "ContainerMetadata Metadata",
    "torch.nn.functional": "relu relu6 gelu silu elu leaky_relu hardtanh hardswish hardsigmoid softmax log_softmax "
    "mish softplus tanh sigmoid",
    "torch._C._nn": "gelu linear silu",
    "torch.nn.backends.thnn": "_get_thnn_function_backend",
}
# Classes (capitalised, no dots) of these packages are layers, optimisers and transforms.
_CLASSES = re.compile(
    r"(torch\.nn\.(modules|quantized|intrinsic|parallel|utils\.parametriz\w*|utils\.weight_norm|utils\.spectral_norm)|torch\.optim|torch\.distributions"
    r"|torchvision\.(models|ops|transforms)|timm\.(models|layers|data\.transforms)|numpy\.dtypes"
    r"|(pytorch_lightning|lightning\.pytorch|lightning\.fabric|lightning_fabric)\.(callbacks|utilities))(\.\w+)*"
)
_LOADERS = re.compile(  # read files, fetch, compile or run code
    r"(torch\.(hub|jit|_dynamo|_inductor|package|fx|compile|load|serialization|storage\._load_from_bytes|ops|library|classes"
    r"|utils\.(cpp_extension|_config_module|bottleneck|collect_env|model_zoo|data\.datapipes|show_pickle)|distributed|multiprocessing|export|_export)"
    r"|numpy\.(load|loadtxt|fromfile|memmap|save|savetxt|genfromtxt|testing|f2py|distutils|ctypeslib|lib\.npyio)"
    r"|(pip|setuptools|pkg_resources|_distutils_hack|distutils|dill|cloudpickle|joblib|pandas\.(eval|io|read_\w+)|IPython|jupyter\w*"
    r"|requests|urllib3|aiohttp|httpx|paramiko|fabric|pexpect|sh|plumbum|cffi|numba|tensorflow|keras|transformers\.pipeline"
    r"|commands|mitogen|invoke|psutil|nose|pytest|_pytest|py|hypothesis|asyncssh|jinja2|yaml|sympy|huggingface_hub))(\.|$)"
)
_STORAGE = re.compile(r"torch(\.cuda)?\.\w+(Storage|Tensor)")
_DTYPE = re.compile(
    r"torch\.(uint|int|float|bfloat|complex|bits|qint|quint|bool|half|double|long|per_)\w*|torch\.(bool|half|double|long)"
)


def trust_in(global_name: GlobalName) -> Trust:
    """How far the file may be believed when it asks for this."""
    if (
        global_name.name in _PLAIN.get(global_name.module, "").split()
        or global_name.module.split(".")[0] == "__torch__"
    ):
        return Trust.PLAIN  # `__torch__` names code inside a TorchScript archive, not a Python module
    if _STORAGE.fullmatch(str(global_name)) or _DTYPE.fullmatch(str(global_name)):
        return Trust.PLAIN
    if global_name.name in _HARMLESS.get(global_name.module, "").split():
        return Trust.HARMLESS
    if _CLASSES.fullmatch(global_name.module) and re.fullmatch(r"_?[A-Z]\w*", global_name.name):
        return Trust.HARMLESS
    root = global_name.module.split(".")[0]
    # A dotted name reaches through a module: "importlib.import_module" of whatever imports importlib.
    through = re.search(r"(^|\.)([a-z]|__)\w*\.", global_name.name)
    if through or root in sys.stdlib_module_names or root == "?" or _LOADERS.match(str(global_name)):
        return Trust.DANGEROUS
    return Trust.UNKNOWN
