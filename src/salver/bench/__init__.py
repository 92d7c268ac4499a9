"""The load generator behind `salver bench`: a client of Salver, and nothing more."""
