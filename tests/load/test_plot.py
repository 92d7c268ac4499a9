"""The picture."""

from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest

from salver.bench.figures import (
    Capacity,
    Counts,
    Limit,
    Own,
    Rates,
    Report,
    Requests,
    Settings,
    Step,
)
from salver.bench.plot import latency_plot
from salver.bench.summary import curve, percentiles

_SVG = "{http://www.w3.org/2000/svg}"


def step(rate: float, latency_us: list[float], *, met: bool = True) -> Step:
    """Return a step whose answers took so long."""
    values = np.array(latency_us)
    count = len(latency_us)
    return Step(
        Rates(rate, rate, rate, rate, rate),
        1.0,
        Counts(count, count, 0, count, count, 0),
        {},
        percentiles(values),
        percentiles(values),
        None,
        1.0,
        met,
        [],
        Own(None, 0.1, False, ""),
        1,
        1,
        curve(values),
    )


def report(*steps: Step, endpoint: str = "churn") -> Report:
    """Return a ramp with these steps."""
    return Report(
        "ramp",
        endpoint,
        "http://127.0.0.1:8080",
        Requests("made up", "json", 1, 10.0),
        Settings("poisson", 0, 100.0, 99.0, 99.0, 1.0, 512, 10.0, "kernel"),
        list(steps),
        Capacity(100.0, None, Limit.SERVER),
    )


def drawn(picture: str, tag: str) -> list[ET.Element]:
    """Return a picture's elements of one kind; it must be well-formed."""
    return list(ET.fromstring(picture).iter(_SVG + tag))


def test_a_line_for_each_rate_inside_the_picture() -> None:
    """Each rate has one line, its last, within the frame, and its place in the legend."""
    generator = np.random.default_rng(0)
    steps = [step(rate, generator.exponential(rate, 500).tolist()) for rate in (100, 200, 200)]
    picture = latency_plot(report(*steps, step(400, [9e5] * 50, met=False)))
    lines = drawn(picture, "polyline")
    assert len(lines) == 3
    assert [line.get("stroke-dasharray") for line in lines] == [None, None, "3 3"]
    for line in lines:
        for pair in (line.get("points") or "").split():
            x, y = map(float, pair.split(","))
            assert 84 <= x <= 750
            assert 64 <= y <= 496
    texts = [element.text for element in drawn(picture, "text")]
    assert {"100", "200", "objective 100 ms", "50 %", "99 %"} <= set(texts)


def test_a_long_ramp_is_thinned() -> None:
    """At most eight lines, with the lowest and the highest rate among them."""
    picture = latency_plot(report(*(step(rate, [rate, rate + 1.0]) for rate in range(1, 30))))
    assert len(drawn(picture, "polyline")) == 8
    texts = [element.text for element in drawn(picture, "text")]
    assert {"1", "29"} <= set(texts)


@pytest.mark.parametrize("latency_us", [[], [0.4], [5.0] * 100, [1.0, 6e7]])
def test_strange_steps_are_drawn_too(latency_us: list[float]) -> None:
    """Nothing, one answer, equal ones and a wide span all make a well-formed picture."""
    picture = latency_plot(report(step(10, latency_us)))
    assert len(drawn(picture, "polyline")) == bool(latency_us)
    assert "nan" not in picture
    assert "inf" not in picture


def test_names_cannot_break_out() -> None:
    """What comes from outside is text and no markup."""
    picture = latency_plot(report(step(1, [1.0]), endpoint="<script>&'"))
    assert not drawn(picture, "script")
    assert any("<script>&'" in (element.text or "") for element in drawn(picture, "text"))


def test_a_report_survives_its_own_json() -> None:
    """The document is what its types say: no field more, none less."""
    made = report(step(100, [1.0, 2.0]))
    assert msgspec.json.decode(msgspec.json.encode(made), type=Report) == made
