"""What a client can read about the data port and its endpoints."""
