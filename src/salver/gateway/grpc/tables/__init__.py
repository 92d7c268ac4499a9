"""What the services speak: messages by field number, as their public definitions number them."""
