"""HTTP/1.1 on httptools: connections, bodies, limits, deadlines."""
