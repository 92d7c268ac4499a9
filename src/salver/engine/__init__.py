"""Make a runtime serve: queues, batches, worker processes, and the way to them."""
