"""The gateway's side of the engine: which worker answers, and what happens when one dies."""
