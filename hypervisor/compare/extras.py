"""Libraries that only a part of the comparison needs: found when they are used.

They are extras of the distribution, so that cowbird can be installed without them.
"""

import importlib
from typing import Any

from hypervisor.compare.errors import CompareError


def optional(module: str, what: str, extra: str) -> Any:
    """The module; ``what`` needs it.

    Raises:
        CompareError: it is not installed; says which extra of cowbird it comes with.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise CompareError(
            f"{what} needs {name}, which is not installed (pip install 'cowbird[{extra}]')"
        ) from None
