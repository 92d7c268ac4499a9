"""Steps around a model: one file for each kind, each row by row over a whole batch at once."""
