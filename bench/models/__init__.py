"""The models and the bodies that every server is measured with."""
