"""The table of rules, by operation; the modules beside it fill it."""

from casc_core.export.rules import Rules

RULES = Rules("ONNX")
"""Each is called as `rule(writer, op, *args, **kwargs)`: as the operation's `forward` is, with symbolic values."""
writes = RULES.writes
