"""Experiments on converted networks: training, evaluation, comparison, the command `casc`. Knows no family of models."""
