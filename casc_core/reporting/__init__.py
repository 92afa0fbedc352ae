"""What outputs say, and how figures are printed: one meaning for every report.

Internal.
"""
