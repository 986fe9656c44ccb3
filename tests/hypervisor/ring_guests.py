"""A kernel that talks by its console ring and waits for keys in the way that it is asked to.

It writes ``>``, echoes every key, and powers off at ``q``.
"""

from hypervisor.abi import SharedInfo, StartInfo, VcpuInfo, XenconsInterface, offset_of

_CONSOLE = offset_of(StartInfo, "console")
_RING = {name: offset_of(XenconsInterface, name) for name in ("in_cons", "in_prod", "out_prod")}
_OUT = offset_of(XenconsInterface, "out")
_PENDING = offset_of(SharedInfo, "evtchn_pending")
_SELECTOR = offset_of(VcpuInfo, "evtchn_pending_sel")

_CLEAR = f"""
    mov byte ptr [r13], 0               # evtchn_upcall_pending
    mov qword ptr [r13 + {_SELECTOR}], 0
    mov qword ptr [r13 + {_PENDING}], 0
    mov eax, [r12 + {_RING["in_prod"]}] # keys that came before that
    cmp eax, [r12 + {_RING["in_cons"]}]
    jne got
"""

WAYS = {
    "block": _CLEAR
    + """
    mov edi, 1                          # SCHEDOP_block
    mov eax, 29
    syscall
""",
    "poll": _CLEAR
    + """
    mov edi, 3                          # SCHEDOP_poll
    lea rsi, [rip + poll]
    mov eax, 29
    syscall
""",
    "yield": """
    xor edi, edi                        # SCHEDOP_yield
    mov eax, 29
    syscall
""",
    "clock": """
    rdtsc
""",
}


def guest(way: str) -> str:
    """Assembly of the kernel that waits by ``way`` (of WAYS)."""
    return f"""
.text
.global _start
_start:
    lea r12, [rsi + 0x2000]             # the console page lies two behind start_info
    mov eax, [rsi + {_CONSOLE + 8}]
    mov [rip + port], eax
    mov rsi, [rsi + {offset_of(StartInfo, "shared_info")}]
    or rsi, 7
    lea r13, [rip + window]
    mov rdi, r13
    mov edx, 2
    mov eax, 14                         # update_va_mapping
    syscall
    mov bl, '>'
    jmp say
next:
    mov eax, [r12 + {_RING["in_prod"]}]
    cmp eax, [r12 + {_RING["in_cons"]}]
    jne got
{WAYS[way]}
    jmp next
got:
    mov eax, [r12 + {_RING["in_cons"]}]
    and eax, 1023
    mov bl, [r12 + rax]
    inc dword ptr [r12 + {_RING["in_cons"]}]
    cmp bl, 'q'
    je off
say:
    mov eax, [r12 + {_RING["out_prod"]}]
    and eax, 2047
    mov [r12 + rax + {_OUT}], bl
    inc dword ptr [r12 + {_RING["out_prod"]}]
    mov edi, 4                          # EVTCHNOP_send
    lea rsi, [rip + port]
    mov eax, 32
    syscall
    jmp next
off:
    lea rsi, [rip + reason]
    mov edi, 2                          # SCHEDOP_shutdown
    mov eax, 29
    syscall
    ud2
.data
port: .long 0
reason: .long 0
.align 8
poll: .quad port
      .long 1
      .long 0
      .quad 0
.align 4096
window: .zero 4096
"""
