"""Exports: a converted network in the formats of hardware and of other tools.

Internal, but for what `SpikingModel` has of it: its methods, the format that is written and its schema are public.
"""
