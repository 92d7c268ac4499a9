"""The parts of a run: small requests and large tensors, real models, overload, start-up."""
