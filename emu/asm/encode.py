"""Machine code of single instructions: Keystone, and what Keystone 0.9.2 gets wrong.

This is the only home of Keystone's quirks. Callers hand it *normal text*: one instruction in
lower case whose numbers are hexadecimal and whose symbols are gone, so encodings depend on
nothing but the text and are cached for the life of the process.

Quirks found by trying, each with a test in ``tests/emu/test_asm.py``:

* ``.fill`` with a forward label, and other directives, can hang the process: no directive ever
  reaches Keystone.
* An instruction that it does not understand may yield no bytes and no error
  (``mov byte [rax], 5``), or bytes that are no instruction (``into`` in 64-bit code, a lone
  ``rep``): every encoding must decode, whole, with Capstone.
* ``[0x1000]`` becomes ``[rip + 0x1000]`` for most registers: the operand parser writes an index of
  ``riz``, which forces an absolute address.
* ``nop`` with an operand becomes a prefetch, ``iret`` and ``pushf`` get a 16-bit prefix, ``sysret``
  is silently ``sysretq``; ``sysretq``, ``sysexitq``, ``lretq`` and ``endbr64`` are unknown, as is
  ``movsd`` without operands: a table holds these.
* ``[r12+rsp]`` loses ``rsp``: addresses come base first, and each is compared, term by term, with
  what Capstone reads back.
* ``push 0x80000000`` in 64-bit code becomes a 16-bit push of 0: such immediates are refused.
* In 32-bit code ``lgdt`` and segment pushes get an operand-size prefix (which makes ``lgdt`` load
  24 bits of base): it is taken off.
"""

import re
from collections.abc import Iterable
from functools import cache

import capstone
import keystone


class EncodingError(ValueError):
    """No machine code for an instruction; the text says why, without position."""


_PREFIXES = {
    "rep": b"\xf3",
    "repe": b"\xf3",
    "repz": b"\xf3",
    "repne": b"\xf2",
    "repnz": b"\xf2",
    "lock": b"\xf0",
}

_FIXED_BOTH = {
    "movsd": b"\xa5",
    "pushf": b"\x9c",
    "popf": b"\x9d",
    "endbr64": b"\xf3\x0f\x1e\xfa",
    "endbr32": b"\xf3\x0f\x1e\xfb",
    "sysexit": b"\x0f\x35",
    "lret": b"\xcb",
    "xlat": b"\xd7",
    "iretw": b"\x66\xcf",
    "pushfw": b"\x66\x9c",
    "popfw": b"\x66\x9d",
    "ud1": b"\x0f\xb9\xc0",
}
_FIXED = {
    32: _FIXED_BOTH | {"iret": b"\xcf", "sysret": b"\x0f\x07"},
    64: _FIXED_BOTH
    | {
        "sysretq": b"\x48\x0f\x07",
        "sysretl": b"\x0f\x07",
        "sysretd": b"\x0f\x07",
        "sysexitq": b"\x48\x0f\x35",
        "lretq": b"\x48\xcb",
        "retq": b"\xc3",
        "leaveq": b"\xc9",
    },
}
_REFUSED = {
    32: {"nop ": "nop takes no operand here: pad with .align or .byte"}
    | {
        name: f"{name} exists only in 64-bit code"
        for name in (
            *("movsq", "cmpsq", "stosq", "lodsq", "scasq", "cqo", "cdqe", "swapgs"),
            *("iretq", "retfq", "pushfq", "popfq"),
        )
    },
    64: {
        "nop ": "nop takes no operand here: pad with .align or .byte",
        "iret": "iret is ambiguous in 64-bit code: write iretq, iretd or iretw",
        "sysret": "sysret is ambiguous in 64-bit code: write sysretq or sysretl",
    },
}
_NO_OPERAND_PREFIX_32 = ("lgdt ", "lidt ", "sgdt ", "sidt ")
_SEGMENTS = frozenset({"es", "cs", "ss", "ds", "fs", "gs"})

_MODES = {
    32: (keystone.KS_MODE_32, capstone.CS_MODE_32),
    64: (keystone.KS_MODE_64, capstone.CS_MODE_64),
}


@cache
def _keystone(bits: int) -> keystone.Ks:
    return keystone.Ks(keystone.KS_ARCH_X86, _MODES[bits][0])


@cache
def _capstone(bits: int) -> capstone.Cs:
    return capstone.Cs(capstone.CS_ARCH_X86, _MODES[bits][1])


@cache
def register_names(bits: int) -> frozenset[str]:
    """Lower-case names that denote registers and so cannot be symbols (the same for all widths)."""
    decoder = _capstone(bits)
    names = {decoder.reg_name(number) for number in range(1, capstone.x86.X86_REG_ENDING)}
    # Capstone's own names for the flag words are not operands of any instruction.
    names -= {None, "flags", "fpsw", "eflags", "rflags", "eiz", "riz"}
    return frozenset(names | {"st"} | {f"dr{n}" for n in range(8)} | {f"cr{n}" for n in range(9)})


_encodings: dict[tuple[int, str], bytes | EncodingError] = {}


def encode(text: str, bits: int) -> bytes:
    """Machine code of one instruction in normal text.

    Raises EncodingError if there is none.
    """
    key = (bits, text)
    found = _encodings.get(key)
    if found is None:
        found = _encodings[key] = _encode_one(text, bits)
    if isinstance(found, EncodingError):
        raise found
    return found


def prepare(texts: Iterable[str], bits: int) -> None:
    """Fill the cache for many instructions in one call of Keystone (a call costs 80 us).

    Never raises: an instruction that fails does so in ``encode``.
    """
    wanted = [text for text in dict.fromkeys(texts) if (bits, text) not in _encodings]
    plain = [text for text in wanted if _own_encoding(text, bits) is None]
    for text, code in zip(plain, _encode_batch(plain, bits), strict=False):
        _encodings[bits, text] = _checked(text, code, bits)


def _encode_one(text: str, bits: int) -> bytes | EncodingError:
    own = _own_encoding(text, bits)
    if own is not None:
        return own
    try:
        code, _count = _keystone(bits).asm(text, 0, as_bytes=True)
    except keystone.KsError as error:
        reason = str(error).split(" (KS_ERR")[0].lower()
        hint = ""
        if "[" in text and " ptr " not in text:
            hint = " (if nothing gives its width: byte, word, dword or qword ptr)"
        return EncodingError(f"{reason}: {text}{hint}")
    return _checked(text, code or b"", bits)


def _own_encoding(text: str, bits: int) -> bytes | EncodingError | None:
    """Encoding of what is not left to Keystone, or None."""
    first, _, rest = text.partition(" ")
    if first in _PREFIXES and rest:
        own = _own_encoding(rest, bits)
        return _PREFIXES[first] + own if isinstance(own, bytes) else own
    fixed = _FIXED[bits].get(text)
    if fixed is not None:
        return fixed
    if bits == 64 and first == "push" and _HEXADECIMAL.match(rest):
        value = int(rest, 16)
        if 1 << 31 <= value < (1 << 64) - (1 << 31):
            return EncodingError(f"{rest} does not fit in push's sign-extended 32 bits")
    for refused, message in _REFUSED[bits].items():
        if text == refused or (refused.endswith(" ") and text.startswith(refused)):
            return EncodingError(message)
    return None


def _encode_batch(texts: list[str], bits: int) -> list[bytes]:
    """Encodings in order, or an empty list if Keystone refuses any of them.

    Keystone does not report sizes, so a label before each instruction and a table of the labels
    behind the last one give them.
    """
    if not texts:
        return []
    source = "\n".join(f"i{number}: {text}" for number, text in enumerate(texts))
    source += "\nend:\n" + "\n".join(f".long i{number}" for number in range(len(texts)))
    try:
        blob, _count = _keystone(bits).asm(source + "\n.long end", 0, as_bytes=True)
    except keystone.KsError:
        return []
    table_size = 4 * (len(texts) + 1)
    if blob is None or len(blob) < table_size:
        return []
    table = memoryview(blob[len(blob) - table_size :]).cast("I")
    if table[-1] != len(blob) - table_size or table[0] != 0:
        return []
    return [bytes(blob[table[n] : table[n + 1]]) for n in range(len(texts))]


def _checked(text: str, code: bytes, bits: int) -> bytes | EncodingError:
    if bits == 32 and code[:1] == b"\x66":
        operation, _, operand = text.partition(" ")
        if text.startswith(_NO_OPERAND_PREFIX_32) or (
            operation in ("push", "pop") and operand in _SEGMENTS
        ):
            code = code[1:]
    if not code:
        return EncodingError(f"cannot assemble: {text}")
    decoded = list(_capstone(bits).disasm_lite(code, 0))
    if len(decoded) != 1 or decoded[0][1] != len(code):
        return EncodingError(f"not an instruction in {bits}-bit code: {text}")
    if "[" in text and _address_terms(text) != _address_terms(decoded[0][3]):
        return EncodingError(f"this address cannot be encoded: {text}")
    return code


_HEXADECIMAL = re.compile(r"0x[0-9a-f]+\Z")
_TERM = re.compile(r"([-+]?)(0x[0-9a-f]+|[0-9]+|[a-z][a-z0-9]*(?:\*[0-9]+)?)")


def _address_terms(text: str) -> list[str]:
    """The addresses in an instruction as sorted sums, whatever the writer's order and signs."""
    addresses = []
    for address in re.findall(r"\[([^\]]*)\]", text):
        registers, number = [], 0
        for sign, term in _TERM.findall(address.replace(" ", "")):
            if term[0].isdigit():
                number += int(sign + term, 0)
            elif term not in ("riz*1", "eiz*1"):
                registers.append(term.removesuffix("*1"))
        addresses.append(f"{sorted(registers)}{number % (1 << 32)}")
    return sorted(addresses)


_CONDITION_NAMES = (
    *("o", "no", "b c nae", "ae nb nc", "e z", "ne nz", "be na", "a nbe"),
    *("s", "ns", "p pe", "np po", "l nge", "ge nl", "le ng", "g nle"),
)
_CONDITIONS = {
    name: number for number, names in enumerate(_CONDITION_NAMES) for name in names.split()
}
_SHORT_ONLY = {
    64: {"jrcxz": b"\xe3", "jecxz": b"\x67\xe3"},
    32: {"jecxz": b"\xe3", "jcxz": b"\x67\xe3"},
}
_LOOPS = {"loopne": b"\xe0", "loopnz": b"\xe0", "loope": b"\xe1", "loopz": b"\xe1", "loop": b"\xe2"}


@cache
def branch_forms(mnemonic: str, bits: int) -> tuple[bytes | None, bytes | None] | None:
    """Opcodes of a relative branch with an 8-bit and with a 32-bit displacement.

    None if ``mnemonic`` is no relative branch; None in place of a form that does not exist.
    """
    if mnemonic == "jmp":
        return b"\xeb", b"\xe9"
    if mnemonic == "call":
        return None, b"\xe8"
    short = _LOOPS.get(mnemonic) or _SHORT_ONLY[bits].get(mnemonic)
    if short is not None:
        return short, None
    condition = _CONDITIONS.get(mnemonic[1:]) if mnemonic[:1] == "j" else None
    if condition is None:
        return None
    return bytes([0x70 + condition]), bytes([0x0F, 0x80 + condition])
