"""What the recipes for convolutional networks share."""
