"""Converted networks in the formats of others: files for other tools, and folders for a hub.

Internal.
"""
