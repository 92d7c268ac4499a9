"""Errors, names, ids, settings, files and the exchange ring."""

import inspect
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core import errors
from salver.core.clock import ManualClock
from salver.core.context import ANONYMOUS, RequestContext
from salver.core.durable import durable_write
from salver.core.errors import ERRORS_BY_CODE, Internal, InvalidName, InvalidSettings, from_code
from salver.core.exchange import Exchange, ExchangeRing, JointExchange, Record
from salver.core.ids import RequestIds
from salver.core.names import check_name, parse_reference
from salver.core.request import InferenceRequest, form_of
from salver.core.secret_file import load_secret
from salver.core.settings import load_settings
from salver.core.settings_file import read_settings
from salver.core.tensor import Tensor
from salver.core.timing import Timing


def test_the_tree_of_errors_is_printed_as_it_is() -> None:
    """Every class with its code stands in the module's docstring, and nothing else does."""
    text = inspect.getdoc(errors) or ""
    for code, error in ERRORS_BY_CODE.items():
        assert any(
            error.__name__ in line and line.split()[-1] == code for line in text.splitlines()
        ), code
    assert text.count("─ ") == len(ERRORS_BY_CODE) + 4


def test_errors_cross_process_boundaries() -> None:
    """A code and a message rebuild the error; an unknown code is a fault of ours."""
    for code, kind in ERRORS_BY_CODE.items():
        rebuilt = from_code(code, "why", 2.0)
        assert type(rebuilt) is kind
        assert (rebuilt.message, rebuilt.retry_after_s) == ("why", 2.0)
    assert type(from_code("of_tomorrow", "why")) is Internal


@pytest.mark.parametrize("name", ["a", "A9._-", "0", "a" * 128])
def test_good_names(name: str) -> None:
    """Letters, digits, dot, underscore and dash, not at the front."""
    assert check_name(name) == name


@given(st.text())
def test_no_name_can_leave_a_folder(name: str) -> None:
    """Whatever passes has no separator, no NUL, and is not a dot name."""
    try:
        check_name(name)
    except InvalidName:
        return
    assert not set(name) & set("/\\\0%#?")
    assert name[0] != "."
    assert len(name) <= 128


@pytest.mark.parametrize(
    ("text", "expected"),
    [("m", ("m", None, None)), ("m:3", ("m", 3, None)), ("m@a", ("m", None, "a"))],
)
def test_references(text: str, expected: tuple[str, int | None, str | None]) -> None:
    """The three forms are told apart and written back."""
    assert tuple(parse_reference(text)) == expected
    assert str(parse_reference(text)) == text


@pytest.mark.parametrize(
    "text", ["", "m:", "m:0", "m:-1", "m:1.0", "m:²", "m@", "@a", "a/b:1", "m:9999999999"]
)
def test_bad_references(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidName):
        parse_reference(text)


def test_ids_sort_by_time_and_cannot_be_made_up() -> None:
    """Ids are unique, ordered, ours; any change of any digit is noticed."""
    clock = ManualClock()
    ids = RequestIds(b"k" * 32, 7, clock)
    made = []
    for _ in range(100):
        made.append(ids.make())
        clock.advance(0.001)
    assert made == sorted(set(made))
    assert all(ids.verify(one) for one in made)
    for place in range(40):
        digit = "0" if made[0][place] != "0" else "1"
        assert not ids.verify(made[0][:place] + digit + made[0][place + 1 :])
    assert not RequestIds(b"x" * 32, 7, clock).verify(made[0])
    for nonsense in ("", "zz" * 20, "0" * 39, "é" * 40):
        assert not ids.verify(nonsense)


def test_settings_come_from_file_and_environment() -> None:
    """The environment wins; numbers, booleans and text are converted."""
    document = {"http": {"request_timeout_s": 5, "max_tensors": 3}, "engine": {"coalesce": False}}
    environ = {"SALVER_HTTP__MAX_TENSORS": "9", "SALVER_HOME": "/x", "PATH": "/bin"}
    settings = load_settings(document, environ)
    assert settings.http.request_timeout_s == 5.0
    assert settings.http.max_tensors == 9
    assert settings.engine.coalesce is False


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"htpt": {}}, "did you mean 'http'"),
        ({"http": {"request_timout_s": 1}}, "did you mean 'request_timeout_s'"),
        ({"http": {"max_tensors": "many"}}, "whole number"),
        ({"http": {"max_tensors": 1.5}}, "whole number"),
        ({"control": {"database_url": "mysql+pymysql://host/x"}}, "'mysql' is not supported"),
        ({"control": {"database_url": "postgresql:/salver"}}, "is no URL; it looks like"),
        ({"engine": {"coalesce": 3}}, "true or false"),
        ({"http": 5}, "keys and values"),
        ({True: {}}, "unknown settings section True"),
        ({"http": {8080: 1}}, "unknown setting http.8080"),
        ({"http": {"request_timeout_s": float("nan")}}, "must be a number, not nan"),
        ({"http": {"request_timeout_s": 10**400}}, "must be a number"),
        ({"http": {"request_timeout_s": float("inf")}}, "must be a number, not inf"),
        ({"engine": {"silent_s": "inf"}}, "must be a number, not 'inf'"),
        ({"observe": {"log_level": "verbose"}}, "log_level is one of debug, info, warning, error"),
        ({"engine": {"runner": "inlien"}}, "runner is one of inline, thread, auto"),
        ({"engine": {"steps": "row"}}, "steps is one of batch, rows"),
        ({"http": {"request_timeout_s": 0}}, "request_timeout_s is from 0.001 to 3600, not 0"),
        ({"control": {"unresponsive_s": 1e10}}, "unresponsive_s is from 0 to 1e.09, not 1e.10"),
    ],
)
def test_bad_settings_are_refused(document: dict[str, object], message: str) -> None:
    """Unknown names and wrong types are errors that name the fix."""
    with pytest.raises(InvalidSettings, match=message):
        load_settings(document)


def test_whole_numbers_have_any_size() -> None:
    """One that no float holds is a number all the same."""
    assert load_settings({"engine": {"max_in_flight": 10**400}}).engine.max_in_flight == 10**400


def test_a_broken_settings_file_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "salver.yaml").write_text("http: [")
    with pytest.raises(InvalidSettings, match=r"salver\.yaml"):
        read_settings(tmp_path)
    (tmp_path / "salver.yaml").write_bytes(b"http: caf\xe9")
    with pytest.raises(InvalidSettings, match=r"salver\.yaml"):
        read_settings(tmp_path)
    (tmp_path / "salver.yaml").write_text("5")
    with pytest.raises(InvalidSettings, match=r"salver\.yaml"):
        read_settings(tmp_path)


def test_durable_writes_replace_whole_files(tmp_path: Path) -> None:
    """The new content is there with its mode, and no temporary file is left."""
    path = tmp_path / "file"
    for content in (b"one", b"two"):
        durable_write(path, content, 0o600)
        assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    """The second process gets the first one's secret; others cannot read it."""
    path = tmp_path / "secret"
    first = load_secret(path, 32)
    assert load_secret(path, 32) == first
    assert len(first) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def exchange() -> Exchange:
    """Return one finished exchange."""
    context = RequestContext("id", ANONYMOUS, 0, 0)
    return Exchange(context, "e", "http", "", 1, None)


def test_the_ring_is_bounded_and_counts_are_not_lost() -> None:
    """More records than fit are handed on early instead of dropped."""
    ring = ExchangeRing(10 * 1024)
    seen: list[Record] = []
    ring.subscribe(seen.extend)
    for _ in range(1000):
        ring.append(exchange())
        assert ring.held_bytes <= 10 * 1024
    ring.drain()
    assert len(seen) == 1000


def test_joint_exchanges_count_as_many() -> None:
    """They take as much room as their members, and come apart into these."""
    ring = ExchangeRing(20 * 1024)
    seen: list[Record] = []
    ring.subscribe(seen.extend)
    context = RequestContext("", ANONYMOUS, 0, 0, variant="m:1")
    ids, timings = ["a", "b", "c"], [Timing(queue_ns=n) for n in range(3)]
    for _ in range(100):
        ring.append_joint(JointExchange(context, "e", "http", 7, ids, timings, rows=2))
        assert ring.held_bytes <= 20 * 1024
    handed_on = len(seen)
    assert handed_on > 80
    assert ring.drain() == 3 * (100 - handed_on)
    assert len(seen) == 100
    joint = seen[0]
    assert isinstance(joint, JointExchange)
    singles = list(joint.each())
    assert [one.context.request_id for one in singles] == ids
    assert [one.timing for one in singles] == timings
    assert {(one.code, one.total_ns, one.context.variant) for one in singles} == {("", 7, "m:1")}
    assert [one.rows for one in singles] == [2, 2, 2]


def test_many_exchanges_ask_once_to_be_drained() -> None:
    """The owner is asked when a batch is full, not at every one after it, and again later."""
    ring = ExchangeRing(1024 * 1024)
    asked: list[int] = []
    ring.drain_soon = lambda: asked.append(len(asked))
    for _ in range(900):
        ring.append(exchange())
    assert len(asked) == 1
    assert ring.drain() == 900
    for _ in range(600):
        ring.append(exchange())
    assert len(asked) == 2


def test_cancelling_twice_is_harmless() -> None:
    """The holder of the work is told once."""
    context = RequestContext("id", ANONYMOUS, 0, 0)
    calls: list[int] = []
    context.on_cancel = lambda: calls.append(1)
    context.cancel()
    context.cancel()
    assert calls == [1]


def test_the_form_of_a_request_says_its_rows() -> None:
    """Rows are the common first dimension, one where there is none."""

    def rows(*shapes: tuple[int, ...]) -> int:
        inputs = [Tensor(f"x{i}", "FP32", shape, b"") for i, shape in enumerate(shapes)]
        return form_of(InferenceRequest("m", inputs)).rows

    assert rows((5, 2)) == 5
    assert rows((5, 2), (5,)) == 5
    assert rows((5, 2), (4,)) == 1
    assert rows(()) == 1
    assert rows((), (1,)) == 1
    assert rows((0, 3)) == 1
    assert rows() == 1
