"""The errors a user can meet. Every one is a `CascError`; each message names the thing, quotes the offending value
and says what to do."""

from __future__ import annotations


class CascError(Exception):
    """Root of every error raised on purpose by `casc_core` and `casc_seq`."""


class ConfigError(CascError, ValueError):
    """An argument or a configuration value is out of its range."""


class ConversionError(CascError):
    """The model cannot be converted exactly: an operation or a module has no rule, or its forward cannot be traced."""


class ExactnessError(CascError):
    """A sum could not be proven free of rounding, so the run was refused rather than done inexactly."""


class NotExactError(CascError):
    """What was to be exact is not: spikes and reference differ, or the reference is not the network that was converted."""


class InputError(CascError, ValueError):
    """The data given to a network is unusable: an empty batch, a token id out of range, a length of zero."""


class DataError(CascError, ValueError):
    """A data file is missing, malformed or truncated; the message names the file and the line."""


class StorageError(CascError, OSError):
    """A folder could not be written, or what it holds is corrupt or not ours."""
