"""Accuracy over time steps, written down as a table, a JSON file and a picture."""
