"""What goes wrong with an experiment as a whole, in one line each."""

from emu.errors import CowbirdError


class CompareError(CowbirdError):
    """A grid, a folder or a scheduler that cannot be used; says which and why."""
