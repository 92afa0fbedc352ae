"""Charts and their look, for pages that stand alone."""
