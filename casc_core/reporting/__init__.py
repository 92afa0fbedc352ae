"""What a network's outputs mean, and how figures are printed: the same in every report.

Internal.
"""
