"""What is asked about experiments, and what is refused before it is asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from salver.client import sides
from salver.client.calls import Call, Reply, Steps, admin_call
from salver.core.errors import InvalidRequest, SideNotFound

TAKEN = Reply(200, {}, b"{}")
REFUSED = Reply(404, {}, b'{"code": "side_not_found", "error": "no experiment goes on"}')


def said(call: Call) -> Any:
    """Return what a call says."""
    assert isinstance(call.body, bytes)
    return orjson.loads(call.body)


def covariate(count: int) -> Steps[int]:
    """Say something of so many callers."""
    return sides.covariate("e", ((f"caller {number}", 1.0) for number in range(count)))


def test_many_callers_go_in_chunks() -> None:
    """The first chunk takes the place of what was said before, the others add to it."""
    steps = covariate(sides._CHUNK + 1)
    first = said(next(steps))
    second = said(steps.send(TAKEN))
    assert (len(first["callers"]), first["replace"]) == (sides._CHUNK, True)
    assert (len(second["callers"]), second["replace"]) == (1, False)
    with pytest.raises(StopIteration) as done:
        steps.send(TAKEN)
    assert done.value.value == sides._CHUNK + 1


@pytest.mark.parametrize("taken", [0, 1])
def test_a_chunk_that_is_refused_is_an_error(taken: int) -> None:
    """The first and a later one raise what the server said, and nothing more is sent."""
    steps = covariate(3 * sides._CHUNK)
    next(steps)
    for _ in range(taken):
        steps.send(TAKEN)
    with pytest.raises(SideNotFound, match="no experiment goes on"):
        steps.send(REFUSED)
    assert next(steps, None) is None


@pytest.mark.parametrize(
    ("arms", "split"),
    [
        ("1,2", [50, 50]),
        (1, [50, 50]),
        (None, [50, 50]),
        ([1, 2], ["a"]),
        ([1, 2], [None]),
        ([1, 2], 50),
        ([1, 2], [10**400, 50]),
    ],
)
def test_an_experiment_is_of_lists(arms: Any, split: Any) -> None:
    """What a file may hold instead is refused, and shown."""
    wrong = arms if split == [50, 50] else split
    with pytest.raises(InvalidRequest) as refused:
        next(sides.start_experiment("e", arms, split, "outcome", force=False))
    assert f"not {wrong!r}"[:40] in refused.value.message


@pytest.mark.parametrize(("split", "sent"), [((50, "50"), [50.0, 50.0]), ("thompson", "thompson")])
def test_an_experiment_is_asked_for(split: Any, sent: Sequence[float] | str) -> None:
    """Versions are texts, and percents are numbers, however a file has them."""
    body = said(next(sides.start_experiment("e", (1, "2"), split, "outcome", force=False)))
    assert (body["arms"], body["split"]) == (["1", "2"], sent)


@pytest.mark.parametrize("value", [10**22, b"bytes", {1: "key"}])
def test_what_json_has_no_form_for_is_refused(value: object) -> None:
    """A number of 23 digits, bytes, and a key that is no text are not sent."""
    with pytest.raises(InvalidRequest, match="cannot be said in JSON"):
        admin_call("POST", "/endpoints", {"value": value})


def callers(folder: Path, content: bytes) -> list[tuple[str, float]]:
    """Return what a file says of callers."""
    path = folder / "before.csv"
    path.write_bytes(content)
    return list(sides.read_covariate(path))


def test_a_file_of_callers(tmp_path: Path) -> None:
    """Columns are found by their names, in any order, and empty lines are none."""
    content = b'value,key\r\n1,ann\r\n\r\n2.5,"bo\r\nb"\r\n'
    assert callers(tmp_path, content) == [("ann", 1.0), ("bo\r\nb", 2.5)]


def test_a_file_of_callers_with_a_mark(tmp_path: Path) -> None:
    """The byte order mark that spreadsheets write is no part of the first column's name."""
    assert callers(tmp_path, "\ufeffkey,value\nann,1\n".encode()) == [("ann", 1.0)]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"key,value\nann,x\n", ":2: "),
        (b"key,value\n\nann,1\n\n\nbob,x\n", ":6: "),
        (b'key,value\n"a\nnn",1\nbob,x\n', ":4: "),
        (b'key,value\n\n"a\nnn",1\n"a\nnn",2\n', r":6: .* is in line 4 already"),
    ],
)
def test_the_line_of_a_wrong_caller(tmp_path: Path, content: bytes, place: str) -> None:
    """Lines are counted as an editor does, empty ones and those of a quoted break included."""
    with pytest.raises(InvalidRequest, match=place):
        callers(tmp_path, content)


@pytest.mark.parametrize("content", [b"", b"key\nann\n", b"key,value\nann\n", b"key,value\n,1\n"])
def test_a_file_that_says_nothing_of_callers(tmp_path: Path, content: bytes) -> None:
    """Without both columns and a value in each there is nothing to say."""
    with pytest.raises(InvalidRequest):
        callers(tmp_path, content)
