"""The network and data that a command line asks for: those of a recipe's output folder, or of a function of the user's."""

from __future__ import annotations

from pathlib import Path

from casc_core.errors import ConfigError, StorageError
from casc_lab.compare.network_and_data import NetworkAndData, Request
from casc_lab.compare.recipe_folder import from_recipe_folder
from casc_lab.compare.user_function import from_user_function


def load_network(request: Request) -> NetworkAndData:
    """The network and the data.

    Raises:
        StorageError: no such folder, not one of a recipe, or without the trained network.
        ConfigError: no such module or function, it returns something else, or the network needs `q`.
        DataError: the recipe's data is not there. InputError: data that the network cannot take.
        ConversionError: the network cannot be converted.
    """
    if request.limit is not None and request.limit < 1:
        raise ConfigError(f"--limit must be at least 1; got {request.limit}")
    folder = Path(request.what)
    if folder.is_dir():
        return from_recipe_folder(folder, request)
    module, colon, function = request.what.partition(":")
    if not colon or not module or not function or "/" in module:
        raise StorageError(
            f"there is no folder {request.what!r}; name the output folder of a recipe, or module:function of your own"
        )
    return from_user_function(module, function, request)
