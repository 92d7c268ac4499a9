"""A client of two workers whose log cannot be written; one worker is killed while requests wait.

Prints how all requests ended, and how many workers can answer afterwards.
"""

import asyncio
import json
from collections import Counter

import uvloop

from salver.observe.logs import configure_logs
from tests.engine.fleet import VARIANT, Fleet, Model, client_of, finish, fleet, until


async def trial(running: Fleet) -> None:
    """Kill one worker in the middle of its work."""
    async with client_of(running) as callers:
        nurse = asyncio.create_task(running.keep_alive())
        asked = [callers.ask(float(value), timeout_s=60.0) for value in range(60)]
        await asyncio.sleep(0.01)
        running.kill(running.names[0])
        await finish(asked)
        await until(lambda: callers.client.ready_workers(VARIANT) == 2)
        nurse.cancel()
        print(json.dumps(Counter(caller.outcome for caller in asked)))


if __name__ == "__main__":
    configure_logs("info", process="gateway-0")
    with fleet(Model(runtime="slow"), workers=2) as two:
        uvloop.run(trial(two))
