"""Other conversion methods, to compare with.

Internal, but for `casc_core.methods`.
"""
