"""Names of the servers, in the order in which each round takes them."""

from __future__ import annotations

from bench.servers.base import Server
from bench.servers.ceiling import Ceiling
from bench.servers.mlserver import MLServer
from bench.servers.salver import CompiledSalver, Salver
from bench.servers.triton import Triton

SERVERS: dict[str, type[Server]] = {
    server.name: server for server in (Ceiling, Salver, CompiledSalver, Triton, MLServer)
}
