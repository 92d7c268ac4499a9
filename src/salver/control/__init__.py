"""Desired state and how it becomes a plan; the API that changes it."""
