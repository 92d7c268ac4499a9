"""HTTP/2 (RFC 9113): frames, streams, and the protections of a public server."""
