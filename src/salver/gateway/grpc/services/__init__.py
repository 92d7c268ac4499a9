"""The services of the front, a file for each family of calls."""
