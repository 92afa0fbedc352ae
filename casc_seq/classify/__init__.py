"""`casc classify`: one text through a converted network."""
