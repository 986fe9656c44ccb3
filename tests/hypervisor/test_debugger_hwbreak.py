"""A guest that debugs itself by its debug registers, under the debugger: neither notices the other.

Its own breakpoints on code and data, with handlers that count; cut, stopped at the same addresses,
watched at the same bytes, and gone back in.
"""

import random

from hypervisor.debug.debugger import Debugger
from hypervisor.debug.model import StopReason
from hypervisor.debug.snapshot import fingerprint
from hypervisor.hypervisor import Hypervisor
from tests.hypervisor.debug_lab import finish, run_in_parts, symbol
from tests.hypervisor.kernels import Lab

ROUNDS = 600
GUEST = """
    lea rdi, [rip + table]
    call 0, rdi
    lea rsi, [rip + target]
    call 8, 0, rsi
    lea rsi, [rip + scratch + 2048]
    call 8, 1, rsi
    call 8, 7, 0xd00055
    xor r12, r12
again:
    mov [rip + scratch + 2048], r12
    inc r14
target: inc r12
    mov rax, [rip + scratch + 2048]
    push r12
    pop r13
    cmp r12, {rounds}
    jb again
    jmp poweroff
handler:
    inc rbx
    mov [rip + scratch + 64], rbx
    add rsp, 16
    lea rcx, [rip + target]
    cmp [rsp], rcx
    jne back
    or qword ptr [rsp + 16], 0x10000
back:
    push 0
    mov rcx, [rsp + 8]
    push rcx
    push r11
    push rax
    mov eax, 23
    syscall
.align 16
table:
    .byte 1, 0
    .word 0xe033
    .long 0
    .quad handler
    .quad 0
    .quad 0
"""


def machine() -> Hypervisor:
    lab = Lab(slice_=3000)
    for _ in range(2):
        lab.boot(GUEST.format(rounds=ROUNDS))
    return lab.hv


def test_a_guests_own_breakpoints_under_the_debugger() -> None:
    hv = machine()
    hv.run()
    end = hv.machine.position
    assert end > 2 * ROUNDS * 25  # the handlers ran
    rng = random.Random(5)
    positions = sorted({at + i for at in rng.sample(range(1, end - 8), 20) for i in range(6)})
    first = run_in_parts(machine(), positions)
    assert run_in_parts(machine(), [])[-1] == first[-1]

    dbg = Debugger(machine())
    dbg.add_breakpoint(1, symbol(dbg, 1, "target"), condition="r12 % 100 == 3")
    dbg.add_breakpoint(2, symbol(dbg, 2, "handler"), condition="r12 % 100 == 3")
    scratch = symbol(dbg, 1, "scratch")
    dbg.add_watchpoint(1, scratch + 2048, 8, "write", condition="new % 70 == 7")
    reasons = [stop.reason for stop in finish(dbg)]
    # A round enters the guest's handler twice, for the data and for the code; and it comes to
    # ``target`` twice, to break and to go on.
    assert reasons.count(StopReason.BREAKPOINT) == 4 * ROUNDS // 100
    assert reasons.count(StopReason.WATCH) == len(range(7, ROUNDS, 70))
    assert fingerprint(dbg.hv) == first[-1]
    for number in list(dbg.stops):
        dbg.remove(number)
    for position in rng.sample(positions, len(positions)):
        dbg.goto(position)
        assert fingerprint(dbg.hv) == first[position]
