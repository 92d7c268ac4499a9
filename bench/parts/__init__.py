"""The parts of a run: tabular requests, large binary tensors, start-up and memory."""
