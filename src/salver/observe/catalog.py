"""Every metric of Salver in one table: kind, labels, help.

Processes count under these names with ``observe.meter``; control merges and prints them.
"""

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """How a metric behaves over time."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """One row of the catalogue; ``buckets`` are upper bounds, +Inf is implied."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


SECONDS_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
)  # fmt: skip
DIFFERENCE_BUCKETS = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

_ENDPOINT = ("tenant", "endpoint", "variant", "weight_epoch")

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "salver_requests_total",
            Kind.COUNTER,
            (*_ENDPOINT, "code"),
            "Finished requests; code is ok or the error's code. No endpoint: none has the name "
            "that was asked for.",
        ),
        Metric(
            "salver_request_seconds",
            Kind.HISTOGRAM,
            _ENDPOINT,
            "Time from the first byte of a request to its answer.",
            SECONDS_BUCKETS,
        ),
        Metric(
            "salver_queue_seconds",
            Kind.HISTOGRAM,
            _ENDPOINT,
            "Time a request waited in the worker's queue.",
            SECONDS_BUCKETS,
        ),
        Metric(
            "salver_run_seconds",
            Kind.HISTOGRAM,
            _ENDPOINT,
            "Time the runtime took for the batch a request was part of.",
            SECONDS_BUCKETS,
        ),
        Metric(
            "salver_batch_size",
            Kind.HISTOGRAM,
            _ENDPOINT,
            "Rows in the batch a request was part of.",
            BATCH_BUCKETS,
        ),
        Metric(
            "salver_http_refused_total",
            Kind.COUNTER,
            ("code",),
            "Requests refused before an endpoint was known.",
        ),
        Metric("salver_requests_in_flight", Kind.GAUGE, ("endpoint",), "Requests being answered."),
        Metric(
            "salver_requests_open",
            Kind.GAUGE,
            ("variant",),
            "Requests that the workers of a variant have not answered yet.",
        ),
        Metric(
            "salver_request_open_seconds_total",
            Kind.COUNTER,
            ("variant",),
            "Time that requests were open at a variant or waited for room there, added up: what it "
            "grows by in a second is how many were so at a time.",
        ),
        Metric("salver_connections", Kind.GAUGE, (), "Open client connections."),
        Metric("salver_retries_total", Kind.COUNTER, ("variant",), "Requests sent a second time."),
        Metric(
            "salver_quarantined_total",
            Kind.COUNTER,
            ("variant",),
            "Those of them whose batch ran when its worker died; each runs alone, in quarantine.",
        ),
        Metric("salver_model_loads_total", Kind.COUNTER, ("variant",), "Models loaded."),
        Metric(
            "salver_model_load_failures_total",
            Kind.COUNTER,
            ("variant", "code"),
            "Loads that failed.",
        ),
        Metric(
            "salver_model_load_seconds",
            Kind.HISTOGRAM,
            ("variant",),
            "Time to verify and load a model.",
            SECONDS_BUCKETS,
        ),
        Metric(
            "salver_cold_starts_total",
            Kind.COUNTER,
            ("variant", "waited_for"),
            "Times a model was loaded because a request came for it: model (its process ran) or "
            "process (that was started as well).",
        ),
        Metric(
            "salver_cold_start_seconds",
            Kind.HISTOGRAM,
            ("variant", "waited_for"),
            "Time from the request that wanted a model back to its being loaded.",
            SECONDS_BUCKETS,
        ),
        Metric(
            "salver_cold_request_seconds",
            Kind.HISTOGRAM,
            _ENDPOINT,
            "Time from the first byte of a request that waited for its model to its answer; its "
            "count by that of all requests is the share of cold ones.",
            SECONDS_BUCKETS,
        ),
        Metric("salver_batches_total", Kind.COUNTER, ("variant",), "Batches run."),
        Metric(
            "salver_requests_dropped_total",
            Kind.COUNTER,
            ("variant", "reason"),
            "Queued requests dropped because the caller left or the deadline passed.",
        ),
        Metric(
            "salver_requests_waiting",
            Kind.GAUGE,
            ("variant",),
            "Requests that wait in the gateways for room at a variant.",
        ),
        Metric(
            "salver_concurrency_limit",
            Kind.GAUGE,
            ("variant",),
            "Requests that all gateways together let be open at a variant.",
        ),
        Metric(
            "salver_requests_crowded_out_total",
            Kind.COUNTER,
            ("variant",),
            "Requests refused because too many waited, of their caller or in all.",
        ),
        Metric(
            "salver_workers_ejected",
            Kind.GAUGE,
            ("variant",),
            "Workers that gateways leave alone since they do worse than others.",
        ),
        Metric(
            "salver_worker_ejections_total",
            Kind.COUNTER,
            ("variant", "worker", "reason"),
            "Times a worker was left alone because of failures or latency.",
        ),
        Metric(
            "salver_breakers_open",
            Kind.GAUGE,
            ("variant",),
            "Gateways whose circuit breaker for a variant is open or half-open.",
        ),
        Metric(
            "salver_breaker_openings_total",
            Kind.COUNTER,
            ("variant",),
            "Times a circuit breaker opened.",
        ),
        Metric(
            "salver_cache_requests_total",
            Kind.COUNTER,
            ("endpoint", "result"),
            "Requests of endpoints that keep answers: hit, joined (waited for an equal one), miss.",
        ),
        Metric("salver_cache_bytes", Kind.GAUGE, (), "Memory of kept answers."),
        Metric(
            "salver_cache_evictions_total",
            Kind.COUNTER,
            (),
            "Kept answers that made room for others.",
        ),
        Metric(
            "salver_shadow_copies_total",
            Kind.COUNTER,
            ("endpoint", "variant", "weight_epoch", "outcome"),
            "Copies of requests for a shadow: agrees, differs, failed, or dropped (never run).",
        ),
        Metric(
            "salver_shadow_difference",
            Kind.HISTOGRAM,
            ("endpoint", "variant", "weight_epoch"),
            "Largest difference between a number in the shadow's answer and in the primary one's.",
            DIFFERENCE_BUCKETS,
        ),
        Metric(
            "salver_shadow_seconds",
            Kind.HISTOGRAM,
            ("endpoint", "variant", "weight_epoch", "of"),
            "Time in queue and model of a copied request: of the shadow, and of the primary.",
            SECONDS_BUCKETS,
        ),
        Metric(
            "salver_out_of_range_total",
            Kind.COUNTER,
            ("endpoint", "input"),
            "Requests with a value outside the declared range or categories.",
        ),
        Metric(
            "salver_model_resident_bytes",
            Kind.GAUGE,
            ("worker", "variant"),
            "Memory that loading the model added.",
        ),
        Metric(
            "salver_model_gpu_bytes",
            Kind.GAUGE,
            ("worker", "variant"),
            "Memory of GPUs that loading the model took.",
        ),
        Metric(
            "salver_model_evictions_total",
            Kind.COUNTER,
            ("variant",),
            "Times a model left memory to make room.",
        ),
        Metric(
            "salver_model_misses_total",
            Kind.COUNTER,
            ("variant",),
            "Requests that found their model out of memory and waited for it.",
        ),
        Metric(
            "salver_memory_refusals_total",
            Kind.COUNTER,
            ("variant",),
            "Requests refused because the memory budget had no room for their model.",
        ),
        Metric(
            "salver_memory_budget_bytes",
            Kind.GAUGE,
            ("identity",),
            "Memory budget of a worker that has one.",
        ),
        Metric(
            "salver_memory_base_bytes",
            Kind.GAUGE,
            ("identity",),
            "Memory that a worker with a budget takes without its models: less room for them.",
        ),
        Metric(
            "salver_gpu_memory_budget_bytes",
            Kind.GAUGE,
            ("identity",),
            "Budget of GPU memory of a worker that has one.",
        ),
        Metric(
            "salver_gpu_memory_base_bytes",
            Kind.GAUGE,
            ("identity",),
            "GPU memory that a worker with a budget takes without its models.",
        ),
        Metric(
            "salver_models_resident",
            Kind.GAUGE,
            ("identity",),
            "Models in the memory of a worker with a budget.",
        ),
        Metric(
            "salver_process_resident_bytes",
            Kind.GAUGE,
            ("role", "identity"),
            "Resident memory of a process.",
        ),
        Metric(
            "salver_memory_pressure",
            Kind.GAUGE,
            ("role", "identity"),
            "Steps that are taken since memory is short: 0 none, 1 shrink, 2 unload, 3 refuse "
            "large bodies, 4 refuse.",
        ),
        Metric(
            "salver_memory_actions_total",
            Kind.COUNTER,
            ("role", "action"),
            "Things done because memory was short.",
        ),
        Metric(
            "salver_process_restarts_total",
            Kind.COUNTER,
            ("identity",),
            "Times the supervisor restarted a process.",
        ),
        Metric(
            "salver_replicas_wanted",
            Kind.GAUGE,
            ("endpoint",),
            "Workers that an endpoint shall have, as it was deployed or by autoscaling.",
        ),
        Metric(
            "salver_replicas_ready",
            Kind.GAUGE,
            ("endpoint",),
            "Workers that can answer for the version that an endpoint shall serve.",
        ),
        Metric(
            "salver_autoscale_panic",
            Kind.GAUGE,
            ("endpoint",),
            "Whether autoscaling answers a burst, and makes no fewer workers: 1 or 0.",
        ),
        Metric(
            "salver_counts_age_seconds",
            Kind.GAUGE,
            (),
            "Age of the counters and histograms that control shows: they are as they were last "
            "written down, and grow old while the database has no room or does not answer.",
        ),
        Metric("salver_plan_number", Kind.GAUGE, ("identity",), "Newest plan a process acts on."),
        Metric(
            "salver_exchange_payloads_dropped_total",
            Kind.COUNTER,
            (),
            "Payloads that observers lost because the exchange ring was full.",
        ),
        Metric(
            "salver_rollout_analyses_given_up_total",
            Kind.COUNTER,
            ("endpoint",),
            "Analyses of a rollout that did not come back in time.",
        ),
        Metric(
            "salver_webhook_attempts_total",
            Kind.COUNTER,
            ("event", "outcome"),
            "Attempts to tell webhooks of rollouts: ok, no (it will not do to ask again), failed.",
        ),
        Metric(
            "salver_webhook_deliveries_total",
            Kind.COUNTER,
            ("event", "outcome"),
            "What webhooks were to be told, and how that ended: delivered, refused, undelivered.",
        ),
    )
}

_PLACES = {m.name: m.labels.index("variant") for m in METRICS.values() if "variant" in m.labels}


def variant_of(key: tuple[str, tuple[str, ...]]) -> str:
    """Return the version that a series is about, empty for none."""
    place = _PLACES.get(key[0])
    return "" if place is None else "".join(key[1][place : place + 1])
