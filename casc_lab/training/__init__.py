"""Training: repeatable, resumable to the bit, on one process or several."""
