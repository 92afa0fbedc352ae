"""The rules of the core: what each operation between activations is read as.

Every module of this package is imported here, and its rules enter `RULES`: adding an operation is adding a rule.
"""

import importlib
import pkgutil

from casc_core.conversion.rules.affine import linear_map
from casc_core.conversion.rules.convolution import convolution
from casc_core.conversion.rules.layout import join
from casc_core.conversion.rules.normalisation import batch_norm
from casc_core.conversion.rules.population import neurons
from casc_core.conversion.rules.refusals import UNPREPARED
from casc_core.conversion.rules.table import RULES

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["RULES", "UNPREPARED", "batch_norm", "convolution", "join", "linear_map", "neurons"]
