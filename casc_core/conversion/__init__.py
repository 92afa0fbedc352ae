"""From a trained module to a program: prepared, traced, lowered by a table of rules.

Internal: what is promised stands in `casc_core` and, for rules of your own, in `casc_core.extend`.
"""
