"""The table that every rule of the core is a row of."""

from casc_core.conversion.rule_table import RuleTable

RULES = RuleTable()
