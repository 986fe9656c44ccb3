"""``cowbird new-guest``: a test program that passes at once, to begin from."""

from pathlib import Path

import click


@click.command("new-guest", short_help="Write a test program that passes at once.")
@click.argument("name")
@click.option("--c", "in_c", is_flag=True, help="In C with the kit (needs gcc), not in assembly.")
@click.option(
    "--width",
    type=click.Choice(["64", "32", "both"]),
    default="64",
    show_default=True,
    help="For 64-bit guests, 32-bit ones, or both from one source.",
)
@click.option(
    "--dir",
    "directory",
    default=".",
    show_default=True,
    metavar="DIR",
    help="Where to write it; made if it is not there.",
)
def new_guest(name: str, in_c: bool, width: str, directory: str) -> None:
    """Write a guest-level test program called NAME that passes at once."""
    import shlex

    from guests.runner import scaffold

    path = scaffold.new_guest(name, Path(directory), c=in_c, width=width)
    click.echo(f"wrote {path}")
    click.echo(f"run it:            cowbird test {shlex.quote(str(path))}")
    if width != "32":
        click.echo(f"on the real Xen:   cowbird test --on both {shlex.quote(str(path))}")
    if in_c:
        from guests import ckit

        bits = 32 if width == "32" else 64
        line = ckit.one_line(str(path), str(path.with_suffix(".elf")), width=bits)
        click.echo(f"build it by gcc:   {line}")
