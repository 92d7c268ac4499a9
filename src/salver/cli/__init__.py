"""The `salver` command: thin commands over the client and the supervisor."""
