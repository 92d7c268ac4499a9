"""Control groups for the limits of workers: one file for each version, and who keeps them."""
