"""Other conversion methods, to compare with."""
