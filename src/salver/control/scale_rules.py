"""Which scaling may be asked for, and what the settings make of it."""

from salver.core.errors import InvalidRequest, InvalidSettings, WorkerLimit
from salver.core.settings import AutoscaleSettings
from salver.registry.records import EndpointSpec
from salver.scale.autoscale.policy import METRICS, QUEUE, RATE, Pace, Policy

_MS = 1000
_HOUR_S = 3600


class Rules:
    """The settings' part in scaling; raises ``InvalidSettings`` for what cannot be."""

    def __init__(self, settings: AutoscaleSettings) -> None:
        self._settings = settings
        self._pace = pace_of(settings)

    def check(self, spec: EndpointSpec) -> None:
        """Raise ``InvalidRequest`` or ``WorkerLimit`` for what cannot be."""
        if spec.scale_on not in METRICS:
            raise InvalidRequest(f"scale_on is one of {', '.join(METRICS)}")
        least = spec.replicas if spec.min_replicas is None else spec.min_replicas
        most = spec.replicas if spec.max_replicas is None else spec.max_replicas
        if least > most:
            raise InvalidRequest(
                f"at least {least} and at most {most} replicas cannot be; give a larger "
                "max_replicas or a smaller min_replicas"
            )
        if spec.max_replicas is None:
            if spec.scale_target is not None or spec.scale_down_delay_s is not None:
                raise InvalidRequest(
                    "scale_target and scale_down_delay_s do nothing without max_replicas"
                )
        elif least > self._settings.max_workers:
            raise WorkerLimit(
                f"at least {least} replicas are more than the {self._settings.max_workers} workers "
                "that autoscaling may use; raise autoscale.max_workers"
            )

    def policy(self, spec: EndpointSpec) -> Policy:
        """Return by what an endpoint is scaled; a floor of none is not for this to reach."""
        own = self._settings
        least = max(1, spec.replicas if spec.min_replicas is None else spec.min_replicas)
        target = spec.scale_target
        if spec.scale_on == QUEUE:
            target = (own.queue_ms if target is None else target) / _MS
        else:
            usual = own.rate_per_s if spec.scale_on == RATE else own.concurrency
            target = (usual if target is None else target) * own.target_utilisation
        delay_s = spec.scale_down_delay_s
        return Policy(
            least,
            max(least, spec.max_replicas or 0),
            spec.scale_on,
            target,
            own.scale_down_delay_s if delay_s is None else delay_s,
            self._pace,
        )


def pace_of(settings: AutoscaleSettings) -> Pace:
    """Return how fast to follow; raises ``InvalidSettings`` for what cannot be."""
    rules = (
        ("interval_s", settings.interval_s > 0, "more than 0"),
        ("stable_window_s", 1 <= settings.stable_window_s <= _HOUR_S, "from 1 to 3600"),
        ("panic_window_ratio", 0 < settings.panic_window_ratio <= 1, "from 0 to 1"),
        ("panic_threshold", settings.panic_threshold > 1, "more than 1"),
        ("max_scale_up_rate", settings.max_scale_up_rate > 1, "more than 1"),
        ("max_scale_down_rate", settings.max_scale_down_rate > 1, "more than 1"),
        ("scale_down_delay_s", 0 <= settings.scale_down_delay_s <= _HOUR_S, "from 0 to 3600"),
        ("target_utilisation", 0 < settings.target_utilisation <= 1, "from 0 to 1"),
        ("concurrency", settings.concurrency > 0, "more than 0"),
        ("rate_per_s", settings.rate_per_s > 0, "more than 0"),
        ("queue_ms", settings.queue_ms > 0, "more than 0"),
        ("max_workers", settings.max_workers >= 1, "at least 1"),
    )
    for name, holds, wanted in rules:
        if not holds:
            raise InvalidSettings(
                f"setting autoscale.{name} must be {wanted}, not {getattr(settings, name)!r}"
            )
    return Pace(
        settings.stable_window_s,
        settings.stable_window_s * settings.panic_window_ratio,
        settings.panic_threshold,
        settings.max_scale_up_rate,
        settings.max_scale_down_rate,
    )
