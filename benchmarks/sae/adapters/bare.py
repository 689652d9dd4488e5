"""Import a library's training modules without what its top-level `__init__` drags in."""

import importlib.util
import sys


def bare(package: str) -> None:
    """Put `package` in place without running its `__init__`, so that its submodules import as they are.

    The code that runs afterwards is the library's own, unchanged; only the imports that its training does not need
    (image models, plotting, language models) are left out.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named '{package}'")
    sys.modules[package] = importlib.util.module_from_spec(spec)
