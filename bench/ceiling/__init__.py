"""The ceiling: the least that a gateway with a worker behind a Unix socket can do."""
