"""``cowbird new-guest``: a test program that passes at once, to begin from."""

from pathlib import Path

import click


@click.command("new-guest")
@click.argument("name")
@click.option("--c", "in_c", is_flag=True, help="In C with the kit (needs gcc), not in assembly.")
@click.option(
    "--dir",
    "directory",
    default=".",
    show_default=True,
    metavar="DIR",
    help="Where to write it; made if it is not there.",
)
def new_guest(name: str, in_c: bool, directory: str) -> None:
    """Write a guest-level test program called NAME that passes at once."""
    import shlex

    from guests.runner import scaffold

    path = scaffold.new_guest(name, Path(directory), c=in_c)
    click.echo(f"wrote {path}")
    click.echo(f"run it:            cowbird test {shlex.quote(str(path))}")
    click.echo(f"on the real Xen:   cowbird test --on both {shlex.quote(str(path))}")
    if in_c:
        from guests import ckit

        line = ckit.one_line(str(path), str(path.with_suffix(".elf")))
        click.echo(f"build it by gcc:    {line}")
