"""One machine: the supervisor."""
