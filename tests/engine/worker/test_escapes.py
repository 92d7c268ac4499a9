"""What a run raises that is no ``Exception``."""

import pytest
import uvloop

from tests.engine.client.test_handler import check_answers, outcomes
from tests.engine.fleet import Model, client_of, finish, fleet
from tests.engine.runtimes import ESCAPING


@pytest.mark.parametrize("runtime", ["affine", "slow"])
@pytest.mark.parametrize("value", sorted(ESCAPING))
def test_an_exit_or_a_panic_is_the_failure_of_one_request(runtime: str, value: float) -> None:
    """Inline or in a thread; those beside it are answered, and the worker goes on."""

    async def run() -> None:
        with fleet(Model(runtime=runtime)) as running:
            async with client_of(running) as callers:
                await finish([callers.ask(1.0)])
                bad, *good = [callers.ask(one) for one in (value, 2.0, 3.0)]
                await finish([bad, *good], 10.0)
                assert bad.outcome == "model_failed"
                check_answers(good)
                late = callers.ask(4.0)
                await finish([late], 10.0)
                assert outcomes([*good, late]) == {"ok": 3}
                assert running.processes["shared-0"].poll() is None

    uvloop.run(run())
