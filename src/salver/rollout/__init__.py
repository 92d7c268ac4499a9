"""Decides whether a new version is as good as the one that answers now."""
