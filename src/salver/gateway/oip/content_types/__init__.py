"""What tensors mean beyond their datatype, in the words of MLServer's callers."""
