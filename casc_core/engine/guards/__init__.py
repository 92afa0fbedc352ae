"""What stands around a run: which inputs are let in, and that weights, products and the run itself are as was proven."""
