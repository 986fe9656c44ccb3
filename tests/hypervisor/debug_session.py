"""A debugger with bundled guests and a context for commands, as the tests of the prompt use it."""

from collections.abc import Callable
from functools import cache

from guests import library
from hypervisor.builder import build_domain
from hypervisor.console import Console
from hypervisor.debug.commands import Context, execute
from hypervisor.debug.debugger import Debugger
from hypervisor.debug.model import DebugError
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import parse_image
from hypervisor.settings import Settings

MIB = 1 << 20


@cache
def _elf(name: str, width: int) -> bytes:
    return library.to_elf(library.assemble_guest(library.find(name), width=width))


class Shell:
    """Commands on a debugger. ``told``: what came while a command ran."""

    def __init__(
        self,
        *guests: str,
        cmdline: str = "",
        machine: int = 32 * MIB,
        memory: int = 4 * MIB,
        width: int = 64,
    ) -> None:
        self.hv = Hypervisor(Settings(machine_memory=machine))
        for name in guests:
            image = parse_image(_elf(name, width), name)
            build_domain(
                self.hv, image, memory=memory, name=name, console=Console(), cmdline=cmdline
            )
        self.debugger = Debugger(self.hv)
        self.told: list[str] = []
        self.context = Context.of(self.debugger, self.told.append)

    def __call__(self, *lines: str) -> str:
        """Run commands; the last one's text."""
        text = ""
        for line in lines:
            text = execute(self.context, line)
        return text

    def refuses(self, line: str) -> str:
        """The error of a command that must fail, one line."""
        try:
            text = execute(self.context, line)
        except DebugError as error:
            said = str(error)
        else:
            raise AssertionError(f"{line} answered {text!r}")
        assert "\n" not in said
        return said

    def value(self, text: str) -> int:
        """The value of an expression in the selected domain."""
        return self.context.value(text)


def unchanged(shell: Shell) -> Callable[[], bool]:
    """Whether machine memory, registers and position are still as they are now."""

    def state() -> tuple[object, ...]:
        hv = shell.hv
        memory = bytes(hv.machine.memory.bytes)
        return memory, hv.machine.cpu.save(), hv.machine.position, bytes(hv.frames.owner)

    before = state()
    return lambda: state() == before
