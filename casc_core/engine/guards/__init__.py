"""What guards a run: checks of its inputs, and that weights, arithmetic and the run itself stay as the proofs assume."""
