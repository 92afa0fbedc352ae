"""A network as the integers that it computes with, for hardware, and golden traces of some samples to test it against."""
