"""Methods compared on one trained network: the figures, and a report of them."""
