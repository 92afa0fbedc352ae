"""Files that are whole or not there at all: written, checked and read strictly.

Internal.
"""
