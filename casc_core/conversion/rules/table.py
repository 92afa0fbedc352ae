"""The table that every rule of the core is a row of."""

from casc_core.conversion.lowering import RuleTable

RULES = RuleTable()
