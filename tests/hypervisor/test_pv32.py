"""32-bit PAE guests: start of day, hypercalls, and what their memory looks like."""

from hypervisor.audit import audit
from tests.hypervisor.kernels import Lab
from tests.hypervisor.kernels32 import kernel32


def test_hello_by_int82_and_by_the_hypercall_page() -> None:
    lab = Lab()
    domain = lab.boot(
        kernel32(
            """
            hyper 18, 0, 6, offset text
            mov ebx, 0
            mov edi, offset hypercall_page + 18 * 32
            mov ecx, 5
            call edi
            jmp poweroff
            text: .ascii "hello\\n"
            """
        )
    )
    assert audit(lab.hv) == []
    assert lab.hv.run(10_000)
    assert domain.console.text() == "hello\nhello"
    assert lab.exits[domain.id].reason == "poweroff"
    lab.check_empty()
