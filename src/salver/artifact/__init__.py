"""The files of one trained model: manifest, formats, examples, checks before loading."""
