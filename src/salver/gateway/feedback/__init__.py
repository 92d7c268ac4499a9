"""Reports of what became of answers, from callers of the data port."""
