"""What a pickle would build, kept as inert records: nothing is imported, nothing is called."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

DTYPES = {  # storage class -> torch dtype, bytes a value
    "Double": ("float64", 8),
    "Float": ("float32", 4),
    "Half": ("float16", 2),
    "BFloat16": ("bfloat16", 2),
    "Long": ("int64", 8),
    "Int": ("int32", 4),
    "Short": ("int16", 2),
    "Char": ("int8", 1),
    "Byte": ("uint8", 1),
    "Bool": ("bool", 1),
    "ComplexDouble": ("complex128", 16),
    "ComplexFloat": ("complex64", 8),
    "Untyped": ("uint8", 1),
    "QInt8": ("qint8", 1),
    "QUInt8": ("quint8", 1),
    "QInt32": ("qint32", 4),
}


@dataclass(frozen=True, slots=True)
class GlobalName:
    """A global the pickle asks for by name."""

    module: str
    name: str

    def __hash__(self) -> int:
        """Of the name alone, which remembers its own: every call in a pickle asks for it several times."""
        return hash(self.name)

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False, repr=False)  # a file could make its text endless
class CallRecord:
    """An object as the pickle describes it: who would make it, from what, and what is put into it afterwards."""

    maker: object
    arguments: object
    new: bool = False  # by `__new__`, without the constructor
    state: object = None
    pairs: dict[object, object] | None = None
    extended: bool = False  # by list items

    @property
    def first(self) -> object:
        """The first argument; None where there is none."""
        return self.arguments[0] if isinstance(self.arguments, tuple) and self.arguments else None

    def build(self, state: object) -> None:
        """BUILD: a second state adds to the first, as `__dict__.update` would; later changes of it have no effect."""
        if isinstance(self.state, dict) and isinstance(state, dict):
            self.state.update(state)
        else:
            self.state = dict(state) if isinstance(state, dict) else state

    def put(self, key: object, value: object) -> None:
        if self.pairs is None:
            self.pairs = {}
        self.pairs[key] = value


@dataclass(frozen=True, slots=True, eq=False)
class PersistentId:
    """A persistent id; in torch files the address of a storage."""

    pid: object


@dataclass(slots=True)
class PickleTrace:
    """One pickle, followed from its first opcode to STOP or to where it breaks."""

    start: int
    end: int = 0
    value: object = None
    broken: str = ""  # why it could not be followed to STOP
    excessive: bool = False  # because it is more than any model needs, and not because it is damaged
    steps: int = 0
    names: dict[GlobalName, int] = field(default_factory=dict)  # every global -> the offset of its first use
    calls: list[CallRecord] = field(default_factory=list)  # in order
    handed_on: Counter[GlobalName] = field(default_factory=Counter)  # how often a global is used but not called
    foreign_targets: list[object] = field(default_factory=list)  # what is changed but does not come from a call
    persistent_ids: list[PersistentId] = field(default_factory=list)
    packed: list[bytes] = field(default_factory=list)  # bytes in it that begin as a pickle does
    suspicious_opcodes: dict[str, int] = field(default_factory=dict)  # opcodes that no model needs


def mapping(value: object) -> dict[object, object] | None:
    """The entries of a dict, or of an OrderedDict, Namespace or other inert stand-in for one."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, CallRecord):
        return None
    if value.pairs is not None:
        return value.pairs
    if str(value.maker) == "collections.OrderedDict":
        return _listed(value.first)
    return value.state if isinstance(value.state, dict) else None


def bytes_of(value: object) -> bytes | None:
    """Bytes, also as the text in a call by which protocols before 3 write them; None where it is something else."""
    if isinstance(value, CallRecord) and str(value.maker) == "_codecs.encode" and isinstance(value.first, str):
        try:
            value = value.first.encode("latin-1")
        except UnicodeEncodeError:
            return None
    return value if isinstance(value, bytes) else None


def named(maker: object) -> GlobalName | None:
    """The name behind a maker; PyTorch before 1.6 puts the source code beside the names of classes."""
    if isinstance(maker, PersistentId) and isinstance(maker.pid, tuple) and maker.pid[:1] == ("module",):
        maker = maker.pid[1] if len(maker.pid) > 1 else None
    return maker if isinstance(maker, GlobalName) else None


def members(value: object) -> set[object]:
    """The text in a set, or in the call that old protocols write for one."""
    value = value.first if isinstance(value, CallRecord) else value
    return {part for part in value if isinstance(part, str)} if isinstance(value, set | list) else set()


def _listed(rows: object) -> dict[object, object]:
    """OrderedDict([[key, value], ...]), as Python 2 wrote it."""
    if not isinstance(rows, list | tuple):
        return {}
    return {
        row[0]: row[1] for row in rows if isinstance(row, list | tuple) and len(row) == 2 and isinstance(row[0], str)
    }


@dataclass(frozen=True, slots=True)
class StorageAddress:
    """Where the values are to be found, and of what kind they are said to be."""

    key: str
    dtype: str
    width: int  # bytes a value
    count: int  # values it is said to hold


def storage_address(stored: PersistentId) -> StorageAddress | None:
    """('storage', torch.FloatStorage, key, device, count); None where it is nothing of the kind."""
    pid = stored.pid
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        return None
    if len(pid) > 5 and pid[5] is not None:
        return None  # a view of another storage, as PyTorch before 0.4 wrote it
    kind, key, count = pid[1], pid[2], pid[4]
    if not isinstance(kind, GlobalName) or not isinstance(count, int) or count < 0:
        return None
    dtype, width = DTYPES.get(kind.name.removesuffix("Storage"), ("", 0))
    return StorageAddress(str(key), dtype, width, count) if dtype and isinstance(key, str | int) else None
