"""Whether a caller may ask an endpoint now, looked at before anything is read of a body."""

from collections.abc import Iterator
from typing import Final

from salver.core.clock import Clock
from salver.core.context import Principal, Rate
from salver.core.errors import Overloaded, QuotaExceeded
from salver.core.settings import LimitSettings
from salver.gateway.auth import check_access, may_ask
from salver.gateway.limits.gcra import Gcra, UseTable

_MAX_RATES: Final = 1024
_RETRY_AFTER_S: Final = 1.0

Caller = tuple[str, str, str]


class Access:
    """Access rules, quotas of open requests, and rates.

    Callers are told apart by tenant and name, so that two keys of one name share a rate. A rate
    without an endpoint counts all that the caller asks, also of endpoints that do not exist.
    ``share`` is the number of gateways, of which each grants an equal part.
    """

    def __init__(self, settings: LimitSettings, clock: Clock, share: int = 1) -> None:
        self._default = default_rate(settings)
        self._clock = clock
        self._share = share
        self._used = UseTable(settings.max_callers)
        self._rules: dict[Rate, Gcra] = {}
        self._is_closed = False

    def close(self) -> None:
        """Refuse all inferences, since there is no memory for them."""
        self._is_closed = True

    def open(self) -> None:
        """Let them in again."""
        self._is_closed = False

    def check(self, principal: Principal, endpoint: str) -> None:
        """Let one request pass.

        Raises ``Forbidden``, ``InvalidName``, ``QuotaExceeded`` or ``Overloaded``.
        """
        check_access(principal, endpoint)
        if self._is_closed:
            raise Overloaded(
                "the gateway's memory is used up; try again later, or raise "
                "limits.gateway_memory_bytes",
                retry_after_s=_RETRY_AFTER_S,
            )
        if self._admitted(principal, endpoint, 1):
            return
        now_ns = self._clock.monotonic_ns()
        rate, wait_ns = max(
            (
                (rate, self._rule(rate).wait_ns(self._used.get(caller), now_ns))
                for caller, rate in self._rates(principal, endpoint)
            ),
            key=lambda found: found[1],
        )
        raise QuotaExceeded(
            f"{principal.name!r} may ask {rate.per_s:g} times a second in the long run and "
            f"{rate.burst} times at once; wait {wait_ns / 1e9:.3f} s before the next request",
            retry_after_s=wait_ns / 1e9,
        )

    def admit(self, principal: Principal, endpoint: str, count: int) -> int:
        """Let as many of ``count`` requests pass as may; returns how many.

        Those that may not are told why by ``check``.
        """
        if self._is_closed or not may_ask(principal, endpoint, count):
            return 0
        return self._admitted(principal, endpoint, count)

    def _admitted(self, principal: Principal, endpoint: str, count: int) -> int:
        if principal.endpoint_rates is None and principal.rate is None and self._default is None:
            return count
        now_ns, used = self._clock.monotonic_ns(), self._used
        rates = [(caller, self._rule(rate)) for caller, rate in self._rates(principal, endpoint)]
        if principal.is_rerated:
            self._forgive(principal, now_ns)
        for caller, rule in rates:
            count = min(count, rule.room(used.get(caller), now_ns))
        if count:
            for caller, rule in rates:
                used.put(caller, rule.taken(used.get(caller), now_ns, count))
        return count

    def _forgive(self, principal: Principal, now_ns: int) -> None:
        """Have a caller owe no more than a whole burst of each of its rates.

        Once for each reading of the key file: another key of its name may lend more, and what that
        one owes must not be forgiven whenever this one asks.
        """
        principal.is_rerated = False
        for endpoint in ("", *(principal.endpoint_rates or ())):
            for caller, rate in self._rates(principal, endpoint):
                free_ns = self._used.get(caller)
                owed_ns = self._rule(rate).owed_ns(free_ns, now_ns)
                if owed_ns != free_ns:
                    self._used.put(caller, owed_ns)

    def _rates(self, principal: Principal, endpoint: str) -> Iterator[tuple[Caller, Rate]]:
        """Yield what applies: the caller's rate for everything, and the one for this endpoint.

        Only declared endpoints have an entry of their own, so that asking for others fills nothing.
        """
        rate = principal.rate or self._default
        if rate is not None:
            yield (principal.tenant, principal.name, ""), rate
        rates = principal.endpoint_rates
        if rates is not None and endpoint in rates:
            yield (principal.tenant, principal.name, endpoint), rates[endpoint]

    def _rule(self, rate: Rate) -> Gcra:
        rule = self._rules.get(rate)
        if rule is None:
            if len(self._rules) >= _MAX_RATES:
                self._rules.clear()
            rule = self._rules[rate] = Gcra(rate, self._share)
        return rule


def default_rate(settings: LimitSettings) -> Rate | None:
    """Return the rate of callers without one of their own, None for none.

    Raises ``InvalidSettings``.
    """
    if settings.rate_per_s == 0:
        return None
    return Rate.checked(settings.rate_per_s, settings.burst or None, "limits.rate_per_s")
