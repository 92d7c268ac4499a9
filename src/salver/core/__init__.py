"""The vocabulary every other room speaks: tensors, requests, errors, clock, settings."""
