"""The engine: a program of operations runs in spikes, and beside it in levels."""
