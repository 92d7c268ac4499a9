"""Structural checks of model files, made before any library loads them."""
