"""Which sample each number belongs to, known before a run; and splitting batches to stay under a memory limit."""
