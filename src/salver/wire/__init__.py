"""The messages between Salver's processes and how they travel."""
