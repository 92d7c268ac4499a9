"""Extensions of the protocol that come from Triton."""
