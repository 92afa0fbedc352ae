"""What a run shows: that spikes and levels agree, where they would not, and what it costs.

Internal: what is promised stands in `casc_core`.
"""
