"""Series of versions that are gone for long end, all at once, and those of others stay."""

from salver.observe.catalog import variant_of
from salver.observe.fading import KEPT_S, Fading
from salver.observe.merge import Merger, Totals
from salver.observe.meter import Meter
from salver.wire.messages import HistogramSample, Sample, Snapshot

DAY_NS = 86_400 * 10**9
KEPT_NS = round(KEPT_S * 1e9)
BATCHES, SECONDS = "salver_batches_total", "salver_request_seconds"


def report(number: int, *variants: str) -> Snapshot:
    """Return what a gateway has counted of versions."""
    counters = tuple(Sample(BATCHES, (variant,), 2.0) for variant in variants)
    histograms = tuple(
        HistogramSample(SECONDS, ("default", "e", variant, "7"), (1, 1), 2.0)
        for variant in variants
    )
    return Snapshot(number, 1, 1, "ready", 0, (), counters, (), histograms)


def shown(totals: Totals) -> set[str]:
    """Return which versions have series."""
    return {variant_of(key) for kind in totals for key in kind}


def test_the_version_of_a_series_is_known() -> None:
    """Wherever its label stands, and of series without one there is none."""
    assert variant_of((BATCHES, ("m:1",))) == "m:1"
    assert variant_of((SECONDS, ("default", "e", "m:2", "7"))) == "m:2"
    assert variant_of(("salver_connections", ())) == ""
    assert variant_of(("of_a_newer_salver", ("m:1",))) == ""


def test_what_comes_back_has_not_faded() -> None:
    """Time counts from when a version left the plan last."""
    fading = Fading(1.0)
    assert fading.after({"m:1", "m:2"}, 0) == frozenset()
    assert fading.after({"m:2"}, 10**9) == frozenset()
    assert fading.after({"m:2"}, 2 * 10**9) == frozenset()
    assert fading.after({"m:2"}, 2 * 10**9 + 1) == {"m:1"}
    assert fading.after({"m:1", "m:2"}, 3 * 10**9) == frozenset()
    assert fading.after({"m:2"}, 4 * 10**9) == frozenset()


def test_time_may_begin_anew() -> None:
    """For a control that is new, and for gateways that it links to, which wait for longer."""
    control, gateway = Merger(Totals({(BATCHES, ("m:1",)): 60.0}, {})), Fading(KEPT_S + 3600)
    meter = Meter()
    meter.add(BATCHES, ("m:1",), 40.0)
    gateway.after({"m:1"}, 0)
    totals = set()
    for day in range(12):
        now_ns = day * DAY_NS + 7200 * 10**9
        if day in (0, 3):
            control.begin_anew()
            gateway.begin_anew(now_ns)
        control.planned({"m:2"}, now_ns)
        if faded := gateway.after({"m:2"}, now_ns):
            meter.forget_variants(faded)
        control.update("g", Snapshot(day + 1, 1, 1, "ready", 0, (), meter.counters(), (), ()))
        totals.add(control.totals().counters.get((BATCHES, ("m:1",))))
    assert totals == {100.0, None}
    assert meter.counters() == ()


def test_no_moment_shows_a_part_of_a_series() -> None:
    """What gone processes counted goes with what living ones still report."""
    merger = Merger()
    merger.update("a", report(1, "m:1", "m:2"))
    merger.retire("a")
    merger.update("b", report(1, "m:1", "m:2"))
    for now_ns in range(0, KEPT_NS + 1, DAY_NS):
        merger.planned({"m:2"}, now_ns)
        assert shown(merger.totals()) == {"m:1", "m:2"}
        assert merger.totals().counters[BATCHES, ("m:1",)] == 4.0
    merger.planned({"m:2"}, KEPT_NS + 1)
    assert shown(merger.totals()) == shown(merger.totals_retired()) == {"m:2"}
    merger.update("b", report(2, "m:1", "m:2"))
    merger.retire("b")
    merger.planned({"m:2"}, KEPT_NS + 2)
    assert shown(merger.totals_retired()) == {"m:2"}
    assert merger.totals().counters[BATCHES, ("m:2",)] == 4.0


def test_a_process_forgets_all_series_of_a_version() -> None:
    """Counters, gauges and histograms; what is counted later begins anew."""
    meter = Meter()
    for variant in ("m:1", "m:2"):
        meter.add(BATCHES, (variant,))
        meter.set("salver_requests_open", (variant,), 1.0)
        meter.histogram(SECONDS, ("default", "e", variant, "7")).observe(0.5)
    meter.forget_variants({"m:1"})
    kinds = (meter.counters(), meter.gauges(), meter.histograms())
    assert [len(kind) for kind in kinds] == [1, 1, 1]
    meter.add(BATCHES, ("m:1",))
    assert Sample(BATCHES, ("m:1",), 1.0) in meter.counters()
