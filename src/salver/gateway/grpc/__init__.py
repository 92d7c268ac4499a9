"""gRPC on the HTTP/2 front: framing, messages, and the services that answer."""
