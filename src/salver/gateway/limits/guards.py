"""What stands between the checks and the engine, as the settings want it."""

from salver.core.clock import Clock
from salver.core.exchange import Subscriber
from salver.core.handler import Handler
from salver.core.settings import Settings
from salver.engine.client.balance import Balance, ejection_policy
from salver.engine.client.handler import EngineClient
from salver.gateway.limits.circuits import CircuitBreakers, breaker_policy
from salver.gateway.limits.room import Rooms
from salver.observe.meter import Meter
from salver.observe.outcomes import Listener, Outcomes
from salver.wire.messages import Plan


class Guards:
    """Circuit breakers, then room and fair turns, in front of an engine client, and its balance.

    ``handler`` is the first of them. Whatever is switched off is not there at all.
    """

    def __init__(
        self, engine: EngineClient, settings: Settings, clock: Clock, meter: Meter
    ) -> None:
        self.handler: Handler = engine
        self._rooms: Rooms | None = None
        self._circuits: CircuitBreakers | None = None
        self._listeners: list[Listener] = []
        if settings.limits.fair:
            self.handler = self._rooms = Rooms(self.handler, engine.route, settings, clock, meter)
            self._listeners.append(self._rooms.counted)
        if settings.limits.breaker:
            policy = breaker_policy(settings.limits)
            self.handler = self._circuits = CircuitBreakers(self.handler, policy, clock, meter)
            self._listeners.append(self._circuits.counted)

        self._balance: Balance | None = None
        if settings.engine.eject_failures or settings.engine.eject_latency_ratio:
            ejections = ejection_policy(settings.engine)
            self._balance = Balance(engine.route, ejections, clock, meter)
            self._listeners.append(self._balance.counted)

    def observers(self) -> list[Subscriber]:
        """Return what learns from finished exchanges."""
        found: list[Subscriber] = []
        if self._circuits is not None:
            found.append(self._circuits.probed)
        if self._listeners:
            found.append(Outcomes(*self._listeners))
        return found

    def apply(self, plan: Plan) -> None:
        """Act on this plan from now on; the engine does so already."""
        if self._balance is not None:
            self._balance.apply(plan)
        if self._rooms is not None:
            self._rooms.apply(plan)
        if self._circuits is not None:
            self._circuits.apply(plan)

    def report(self) -> None:
        """Set the gauges."""
        if self._balance is not None:
            self._balance.refresh()
        if self._rooms is not None:
            self._rooms.report()

    def stop(self) -> None:
        """Refuse what waits."""
        if self._rooms is not None:
            self._rooms.stop()
