"""The address of a tensor storage, as torch writes it into a pickle."""

from __future__ import annotations

from dataclasses import dataclass

from bdscan.load.pickle.records import GlobalName, PersistentId

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
class StorageAddress:
    """Where the values are to be found, and of what kind they are said to be."""

    key: str
    dtype: str
    width: int  # bytes a value
    count: int  # values it is said to hold


def parse(stored: PersistentId) -> StorageAddress | None:
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
