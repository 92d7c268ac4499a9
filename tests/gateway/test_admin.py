"""A gateway's own metrics and health."""

import asyncio
import urllib.error
import urllib.request

import pytest

from salver.core.clock import SystemClock
from salver.core.settings import HttpSettings
from salver.gateway.admin import AdminServer


def get(url: str) -> tuple[int, bytes, str]:
    """Return status, body and content type."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read(), answer.headers["content-type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers["content-type"]


def test_metrics_and_health_on_a_loopback_port() -> None:
    """Metrics are what the gateway renders, health is a 200, anything else a coded 404."""

    async def ask() -> None:
        admin = AdminServer(HttpSettings(), SystemClock(), lambda: b"salver_up 1\n")
        port = await admin.start()
        url = f"http://127.0.0.1:{port}"
        status, body, kind = await asyncio.to_thread(get, f"{url}/metrics?x=1")
        assert (status, body) == (200, b"salver_up 1\n")
        assert kind.startswith("text/plain; version=")
        assert (await asyncio.to_thread(get, f"{url}/healthz"))[0] == 200
        status, body, _ = await asyncio.to_thread(get, f"{url}/v2")
        assert status == 404
        assert b'"route_not_found"' in body
        await admin.stop()
        with pytest.raises(urllib.error.URLError):
            await asyncio.to_thread(get, f"{url}/healthz")

    asyncio.run(ask())
