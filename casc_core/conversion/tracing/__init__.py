"""A forward as a graph of operations, each with the user's line; what cannot be recorded is refused."""
