"""How each operation is written, one rule per operation in one table.

Every module of this package is imported here, and its rules enter `RULES`.
"""

import importlib
import pkgutil

from casc_core.export.onnx.rules.table import RULES, writes

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["RULES", "writes"]
