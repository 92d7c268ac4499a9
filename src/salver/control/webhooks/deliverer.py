"""The loop that tells webhooks what is written down for them, each host at its own pace."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import msgspec

from salver.control.database import DatabaseThread
from salver.control.webhooks.attempt import FAILED, NO, OK, Attempt, Send
from salver.core.clock import Clock
from salver.core.errors import InvalidRequest, SalverError
from salver.core.webhooks import target_of
from salver.observe.logs import get_logger
from salver.registry.records import Delivery
from salver.registry.webhooks import (
    DELIVERED,
    REFUSED,
    UNDELIVERED,
    WAITING,
    DeliveryStore,
)

log = get_logger(__name__)

MAX_OPEN = 32
MAX_OPEN_OF_HOST = 2
_LOOK_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_MAX_DOUBLINGS = 6
_SECOND_NS = 1_000_000_000
_KEPT_DAYS = 30.0
_TIDY_S = 3600.0
_STATES = {OK: DELIVERED, NO: REFUSED}

Count = Callable[[str, tuple[str, ...]], None]


class Deliverer:
    """Component that delivers at least once, with the same id at every attempt.

    ``count`` adds one to a counter. ``random_source`` spreads attempts, so that hosts that come
    back are not asked by everybody at once.
    """

    def __init__(
        self,
        store: DeliveryStore,
        database: DatabaseThread,
        send: Send,
        count: Count,
        clock: Clock,
        random_source: random.Random,
    ) -> None:
        self.store = store
        self._database = database
        self._send = send
        self._count = count
        self._clock = clock
        self._random = random_source
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._open: dict[str, asyncio.Task[None]] = {}
        self._hosts: Counter[str] = Counter()
        self._due_ns: dict[str, int] = {}
        self._since_ns: dict[str, int] = {}
        self._unnoted: dict[str, int] = {}
        self._tidied_ns: int | None = None

    def wake(self) -> None:
        """Something is to be told: look soon."""
        self._wake.set()

    async def start(self) -> None:
        """Begin with what is written down."""
        self._task = asyncio.create_task(self._deliver_for_ever())

    async def stop(self) -> None:
        """Begin nothing more; what was not answered is told again after the next start."""
        tasks = [task for task in (self._task, *self._open.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _deliver_for_ever(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.look()
            except SalverError as error:
                log.warning("webhooks_not_told", code=error.code, cause=error.message)
            except Exception:  # a fault of ours must not end the loop
                log.exception("webhooks_not_told")
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Begin with whatever is due and has room; returns at once."""
        if not self.store.is_in_charge:
            return
        await self._tidy()
        # What ends while this is read may look as if it still waited.
        busy = set(self._open)
        waiting = await self._database(self.store.waiting)
        known = {item.id for item in waiting} | busy
        for kept in (self._due_ns, self._since_ns, self._unnoted):
            for gone in kept.keys() - known:
                del kept[gone]
        now_ns = self._clock.monotonic_ns()
        for item in waiting:
            if len(self._open) >= MAX_OPEN:
                return
            is_due = item.id not in busy and self._due_ns.get(item.id, now_ns) <= now_ns
            if is_due and self._hosts[_host(item)] < MAX_OPEN_OF_HOST:
                self._begin(item)

    def _begin(self, item: Delivery) -> None:
        host = _host(item)
        self._hosts[host] += 1
        self._since_ns.setdefault(item.id, self._clock.monotonic_ns())
        task = asyncio.create_task(self._try(item))
        self._open[item.id] = task

        def ended(_task: asyncio.Task[None]) -> None:
            del self._open[item.id]
            self._hosts[host] -= 1
            self._hosts += Counter()
            self.wake()

        task.add_done_callback(ended)

    async def _try(self, item: Delivery) -> None:
        """Make one attempt and write down what came of it; when that fails, it is made again.

        Each time after a longer pause, whatever was answered.
        """
        self._due_ns[item.id] = self._clock.monotonic_ns() + round(_FIRST_PAUSE_S * _SECOND_NS)
        try:
            attempt = await self._send(item)
            self._count("salver_webhook_attempts_total", (item.event, attempt.outcome))
            after, pause_s = self._after(item, attempt)
            self._due_ns[item.id] = self._clock.monotonic_ns() + round(pause_s * _SECOND_NS)
            if not await self._database(lambda: self.store.save(after)):
                return
        except SalverError as error:
            log.warning("webhook_not_noted", id=item.id, code=error.code, cause=error.message)
            self._put_off(item)
            return
        except Exception:  # a fault of ours must not stop the others
            log.exception("webhook_failed", id=item.id)
            self._put_off(item)
            return
        self._unnoted.pop(item.id, None)
        log.info(
            "webhook",
            webhook=item.webhook.name,
            endpoint=item.endpoint,
            rollout=item.number,
            event_told=item.event,
            id=item.id,
            state=after.state,
            attempts=after.attempts,
            status=after.status,
            reason=after.reason,
        )
        if after.state != WAITING:
            self._count("salver_webhook_deliveries_total", (item.event, after.state))

    def _put_off(self, item: Delivery) -> None:
        """Let the next attempt wait, the longer the more of them were not written down."""
        times = self._unnoted[item.id] = self._unnoted.get(item.id, 0) + 1
        pause_ns = round(self._pause_s(times) * _SECOND_NS)
        due_ns = self._clock.monotonic_ns() + pause_ns
        self._due_ns[item.id] = max(self._due_ns.get(item.id, 0), due_ns)

    def _after(self, item: Delivery, attempt: Attempt) -> tuple[Delivery, float]:
        """Return a delivery after an attempt, and the pause before another."""
        now_ns = self._clock.monotonic_ns()
        spent_s = item.spent_s + (now_ns - self._since_ns.get(item.id, now_ns)) / _SECOND_NS
        self._since_ns[item.id] = now_ns
        attempts, hook, reason = item.attempts + 1, item.webhook, attempt.reason
        state, pause_s = _STATES.get(attempt.outcome, WAITING), 0.0
        if attempt.outcome == FAILED:
            pause_s = max(attempt.wait_s, self._pause_s(attempts))
            if attempts >= hook.attempts or spent_s + pause_s > hook.budget_s:
                state = UNDELIVERED
                reason += f"; given up after {attempts} of {hook.attempts} attempts"
        after = msgspec.structs.replace(
            item,
            state=state,
            attempts=attempts,
            spent_s=spent_s,
            status=attempt.status,
            reason=reason,
        )
        return after, pause_s

    def _pause_s(self, attempts: int) -> float:
        doublings = min(attempts - 1, _MAX_DOUBLINGS)
        longest_s = min(_FIRST_PAUSE_S * 2.0**doublings, _LONGEST_PAUSE_S)
        return longest_s * self._random.uniform(0.5, 1.0)

    async def _tidy(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if self._tidied_ns is None or now_ns - self._tidied_ns >= _TIDY_S * _SECOND_NS:
            self._tidied_ns = now_ns
            await self._database(lambda: self.store.forget_old(_KEPT_DAYS))


def _host(item: Delivery) -> str:
    try:
        return target_of(item.webhook.url).host
    except InvalidRequest:
        return ""
