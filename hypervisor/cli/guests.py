"""``cowbird guests``: what can be booted by name."""

import sys

import click

from guests import library
from hypervisor.cli.options import size_text


@click.command()
def guests() -> None:
    """List the bundled guests: name, default memory, what each does."""
    width = max(len(guest.name) for guest in library.BUNDLED)
    for guest in library.BUNDLED:
        memory = size_text(guest.memory)
        sys.stdout.write(f"{guest.name:<{width}}  {memory:>4}  {guest.description}\n")
