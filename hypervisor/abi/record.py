"""How the ABI's structures are declared: once, for both widths.

A structure is a class whose annotations are at once the Python type (for mypy and the reader)
and the C type (for ctypes)::

    @record("sched_poll", "sched.h")
    class SchedPoll(Record):
        ports: Ptr
        nr_ports: U32
        timeout: U64

``SchedPoll`` itself is the 64-bit layout, a ``ctypes`` structure. ``layout(SchedPoll, 32)`` is
its 32-bit twin: the same fields with 4-byte ``Ulong`` and ``Ptr``, and with no field aligned to
more than 4 bytes, as the i386 ABI has it.

Read and write guest bytes with ``read`` and ``to_bytes`` only. Fields are not range-checked:
ctypes keeps the low bits of what is assigned, as a C assignment would.

Field names are Xen's; one that is a Python keyword takes a trailing underscore.
"""

import ctypes
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    get_type_hints,
)

Width: TypeAlias = Literal[32, 64]
"""Bits in a guest's ``unsigned long``."""

CType: TypeAlias = Any
"""A ctypes type object (typeshed has no public name for their common base)."""


class Both(NamedTuple):
    """What an annotation means at each width; ``None``: the field does not exist there."""

    at64: Any
    at32: Any


U8: TypeAlias = Annotated[int, Both(ctypes.c_uint8, ctypes.c_uint8)]
U16: TypeAlias = Annotated[int, Both(ctypes.c_uint16, ctypes.c_uint16)]
U32: TypeAlias = Annotated[int, Both(ctypes.c_uint32, ctypes.c_uint32)]
U64: TypeAlias = Annotated[int, Both(ctypes.c_uint64, ctypes.c_uint64)]
I8: TypeAlias = Annotated[int, Both(ctypes.c_int8, ctypes.c_int8)]
I16: TypeAlias = Annotated[int, Both(ctypes.c_int16, ctypes.c_int16)]
I32: TypeAlias = Annotated[int, Both(ctypes.c_int32, ctypes.c_int32)]
Ulong: TypeAlias = Annotated[int, Both(ctypes.c_uint64, ctypes.c_uint32)]
"""``unsigned long``, ``xen_ulong_t``, ``xen_pfn_t``."""
Ptr: TypeAlias = Ulong
"""A guest handle: a linear address that nobody has checked."""
Domid: TypeAlias = U16
Port: TypeAlias = U32
U64Only64: TypeAlias = Annotated[int, Both(ctypes.c_uint64, None)]
U32Only64: TypeAlias = Annotated[int, Both(ctypes.c_uint32, None)]
U32Only32: TypeAlias = Annotated[int, Both(None, ctypes.c_uint32)]
UlongOnly32: TypeAlias = U32Only32

Ints: TypeAlias = ctypes.Array[Any]
"""Python type of an array field; say length and element as ``Annotated[Ints, 6, Ulong]``."""


class Record(ctypes.LittleEndianStructure):
    """Base of every structure of the ABI."""


class RecordUnion(ctypes.LittleEndianUnion):
    """Base of every union of the ABI."""


class Origin(NamedTuple):
    """Where a declaration comes from."""

    c_name: str
    """The C type: ``struct NAME``, ``union NAME``; empty for an anonymous member type."""
    header: str
    """Header under xen/, or ``cowbird`` for our own."""


T = TypeVar("T", bound=Record | RecordUnion)

ORIGIN: dict[type[Any], Origin] = {}
"""Every declared structure, in order of declaration: its C name and its header."""

_TWIN: dict[type[Any], type[Any]] = {}


def record(c_name: str, header: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: lay out the class's annotations for both widths.

    Raises TypeError (at import) if an annotation does not name a C type.
    """

    def lay_out(cls: type[T]) -> type[T]:
        hints = get_type_hints(cls, include_extras=True)
        own = {name: hints[name] for name in cls.__annotations__}
        base = RecordUnion if issubclass(cls, RecordUnion) else Record
        # _pack_ caps every field's alignment at 4, which is just what i386 does to uint64_t.
        # _layout_ is what Python 3.14 wants to hear next to it; older versions ignore it.
        twin = type(
            f"{cls.__name__}32",
            (base,),
            {"_pack_": 4, "_layout_": "ms", "_fields_": _fields(own, 32), "__doc__": cls.__doc__},
        )
        cls._fields_ = _fields(own, 64)
        _TWIN[cls] = twin
        ORIGIN[cls] = Origin(c_name, header)
        return cls

    return lay_out


def layout(cls: type[T], width: Width) -> type[T]:
    """The class that lays ``cls`` out for a guest whose ``unsigned long`` has ``width`` bits."""
    return cls if width == 64 else _TWIN[cls]


def read(cls: type[T], data: bytes | bytearray | memoryview, offset: int = 0) -> T:
    """A copy of the structure at ``offset`` (bytes) in ``data``.

    Raises ValueError if ``data`` is too short, which is the caller's mistake, not the guest's.
    """
    # mypy widens a call through a TypeVar bound to a union to that union.
    return cast(T, cls.from_buffer_copy(data, offset))


def to_bytes(value: Record | RecordUnion) -> bytes:
    """The structure as it lies in guest memory."""
    return bytes(value)


def size_of(cls: type[Record] | type[RecordUnion]) -> int:
    """Size of the structure in bytes, padding included."""
    return ctypes.sizeof(cls)


def offset_of(cls: type[Record] | type[RecordUnion], field: str) -> int:
    """Offset of ``field`` in bytes. Raises AttributeError if there is no such field."""
    return int(getattr(cls, field).offset)


def field_size(cls: type[Record] | type[RecordUnion], field: str) -> int:
    """Size of ``field`` in bytes. Raises AttributeError if there is no such field."""
    return int(getattr(cls, field).size)


def field_names(cls: type[Record] | type[RecordUnion]) -> list[str]:
    """Names of the structure's own fields, in order."""
    return [entry[0] for entry in cls._fields_]


def _fields(hints: dict[str, Any], width: Width) -> list[tuple[str, CType]]:
    fields = [(name, _ctype(hint, width)) for name, hint in hints.items()]
    return [(name, ctype) for name, ctype in fields if ctype is not None]


def _ctype(hint: Any, width: Width) -> CType:
    """The ctypes type that an annotation stands for, None if it has no place at this width."""
    if isinstance(hint, Both):
        chosen = hint.at64 if width == 64 else hint.at32
        return _ctype(chosen, width)
    if hint is None:
        return None
    metadata = getattr(hint, "__metadata__", None)
    if metadata is not None:
        if len(metadata) == 2:
            count, element = metadata
            return _ctype(element, width) * _count(count, width)
        return _ctype(metadata[0], width)
    if hint in _TWIN:
        return layout(hint, width)
    if isinstance(hint, type) and not get_args(hint) and issubclass(hint, ctypes._SimpleCData):
        return hint
    raise TypeError(f"{hint!r} does not name a C type of the Xen ABI")


def _count(count: Any, width: Width) -> int:
    if isinstance(count, Both):
        return int(count.at64 if width == 64 else count.at32)
    return int(count)
