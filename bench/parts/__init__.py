"""The parts of a run: small requests and large tensors over each door, start-up and memory."""
