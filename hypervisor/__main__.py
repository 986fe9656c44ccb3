"""``python -m hypervisor`` is ``cowbird``."""

from hypervisor.cli import main

if __name__ == "__main__":
    main()
