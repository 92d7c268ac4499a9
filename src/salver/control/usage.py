"""What gateways' counts say of the use of each variant."""

from salver.control.hub import GATEWAY, Hub
from salver.core.errors import ERRORS_BY_CODE, Fault
from salver.scale.autoscale.history import Usage
from salver.scale.autoscale.telemetry import Report
from salver.wire.messages import Snapshot

_OPEN_NOW = ("salver_requests_open", "salver_requests_waiting")
_VARIANT, _CODE = 2, 4
_LEFT = "cancelled"


def usage_of(snapshot: Snapshot) -> dict[str, Usage]:
    """Return what each variant was used for since the gateway started.

    Requests count that a worker ran, and those that ended in an error which is not the caller's.
    Answers from memory take no worker.
    """
    found: dict[str, Usage] = {}

    def add(variant: str, usage: Usage) -> None:
        found[variant] = found.get(variant, Usage()).plus(usage)

    for sample in snapshot.counters:
        if sample.name == "salver_request_open_seconds_total":
            add(sample.labels[0], Usage(open_s=sample.value))
        elif sample.name == "salver_requests_total" and _is_ours(sample.labels[_CODE]):
            add(sample.labels[_VARIANT], Usage(asked=sample.value, finished=sample.value))
    for histogram in snapshot.histograms:
        if histogram.name == "salver_run_seconds":
            count = sum(histogram.counts)
            usage = Usage(asked=count, finished=count, run_s=histogram.total)
            add(histogram.labels[_VARIANT], usage)
    for gauge in snapshot.gauges:
        if gauge.name in _OPEN_NOW:
            add(gauge.labels[0], Usage(asked=gauge.value))
    return found


def _is_ours(code: str) -> bool:
    error = ERRORS_BY_CODE.get(code)
    return error is not None and (error.side is not Fault.CALLER or code == _LEFT)


def reports_of(hub: Hub) -> list[Report]:
    """Return the newest report of each connected gateway."""
    return [
        Report(
            peer.hello.identity,
            peer.hello.incarnation,
            peer.snapshot.number,
            peer.received_ns,
            usage_of(peer.snapshot),
        )
        for peer in hub.peers(GATEWAY)
        if peer.snapshot is not None
    ]
