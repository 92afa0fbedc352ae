"""What every experiment shares, whatever its models and data: training, evaluation over time steps, results, processes."""
