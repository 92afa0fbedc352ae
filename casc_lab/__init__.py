"""Experiments on converted networks: training, evaluation, comparison, the command `casc`. Knows no family of models.

Internal, but for the command, and `casc_lab.cli.Command` for commands of your own.
"""
