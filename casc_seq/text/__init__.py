"""Texts in: words and their numbers, vectors, the embedded sample."""
