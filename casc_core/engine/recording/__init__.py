"""What is counted of a run, from beside it: spikes, operations, steps to silence, agreement with the reference."""
