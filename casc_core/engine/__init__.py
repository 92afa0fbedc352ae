"""The engine: a program of operations runs in spikes, and beside it in levels.

Internal: what is promised stands in `casc_core` and, for operations of your own, in `casc_core.extend`.
"""
