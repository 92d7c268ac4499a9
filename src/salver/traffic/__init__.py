"""Which variant of an endpoint answers a request."""
