"""``cowbird asm``: a guest's source as a Xen PV ELF file, for here and for the real Xen."""

import sys
from pathlib import Path

import click

from emu.asm import Program, assemble
from guests import library
from hypervisor.cli.options import Define, reason_of
from hypervisor.cli.outputs import OutputFile, refuse_inputs


@click.command()
@click.argument("source", metavar="FILE")
@click.option("-o", "--output", required=True, metavar="OUT.elf", help="The ELF file to write.")
@click.option(
    "--bits",
    type=click.Choice(["64", "32"]),
    default="64",
    show_default=True,
    help="Width of the guest; the source sees it as the constant BITS.",
)
@click.option(
    "-I",
    "include",
    multiple=True,
    metavar="DIR",
    help="Look for included files here too, before the bundled library. Repeatable.",
)
@click.option(
    "-D",
    "define",
    type=Define(),
    multiple=True,
    metavar="NAME=VALUE",
    help="Define a constant (1 if there is no value). Repeatable.",
)
@click.option("--symbols", is_flag=True, help="Print the labels and constants, by value.")
def asm(
    source: str,
    output: str,
    bits: str,
    include: tuple[str, ...],
    define: tuple[tuple[str, int], ...],
    symbols: bool,
) -> None:
    """Assemble FILE into a Xen PV ELF image with symbols.

    It boots with 'cowbird boot OUT.elf' and on a real Xen as a domain's kernel.
    """
    refuse_inputs([("-o", output)], [("FILE", source)])
    _refuse_others(Path(source))
    program = assemble(
        Path(source),
        base=library.virt_base(int(bits)),
        bits=int(bits),
        include_dirs=(*map(Path, include), library.DIRECTORY),
        defines=dict(define),
    )
    OutputFile(output, "-o", binary=True).finish(library.to_elf(program))
    if symbols:
        _print_symbols(program)


def _refuse_others(path: Path) -> None:
    """Say of what cannot be assembled what it is, where that is easy to see.

    Raises:
        click.BadParameter: it is an image or a C source.
    """
    if path.suffix.lower() == ".c":
        raise click.BadParameter(
            f"{path} is C: 'cowbird boot' and 'cowbird test' compile it", param_hint="FILE"
        )
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise click.BadParameter(f"{path}: {reason_of(error)}", param_hint="FILE") from error
    if head == b"\x7fELF":
        raise click.BadParameter(
            f"{path} is an ELF image already, not a source ('cowbird info' says more)",
            param_hint="FILE",
        )


def _print_symbols(program: Program) -> None:
    """One line each: value, kind as nm shows it (capital: global), name."""
    for name, value in sorted(program.symbols.items(), key=lambda item: (item[1], item[0])):
        if name.startswith(".L"):
            continue
        kind = "t" if name in program.labels else "a"
        if name in program.global_names:
            kind = kind.upper()
        sys.stdout.write(f"{value & (1 << 64) - 1:016x} {kind} {name}\n")
