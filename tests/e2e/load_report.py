"""What `salver bench` reports in the end-to-end tests."""

import msgspec

from salver.bench.figures import Report
from tests.e2e.server import Server


def report(server: Server, *arguments: str, stdin: bytes = b"") -> Report:
    """Run the command, which must succeed; its output must be a report and nothing else."""
    printed = server.ok("bench", *arguments, "-o", "json", stdin=stdin)
    return msgspec.json.decode(printed, type=Report)
