"""The table that every rule of the core is a row of."""

from casc_core.lowering import RuleTable

RULES = RuleTable()
