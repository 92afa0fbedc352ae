"""Whose sample each number is, known before a run; and batches in parts that stay under a memory limit."""
