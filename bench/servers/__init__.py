"""The servers under measurement: one file for each, one table of names."""
