"""Tells webhooks of rollouts: signed, to hosts that are allowed, at least once."""
