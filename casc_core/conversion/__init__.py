"""From a trained module to a program: prepared, traced, lowered by a table of rules."""
