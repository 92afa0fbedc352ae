"""What is counted of a run by an observer: spikes, operations, steps to silence, agreement with the reference."""
