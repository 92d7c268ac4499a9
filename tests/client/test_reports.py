"""Reports as they are read from files."""

from pathlib import Path

import numpy as np
import pytest

from salver.client.calls import CONTROL, DATA
from salver.client.feedback import feedback, read_reports
from salver.client.inference import PredictOptions, predict
from salver.core.errors import InvalidRequest, NotFound
from salver.core.feedback import Reported


def read(path: Path, content: bytes) -> tuple[dict[int, Reported], dict[int, str]]:
    """Return a file's reports and its errors' messages, by their lines' numbers."""
    path.write_bytes(content)
    found = list(read_reports(path, "outcome"))
    assert [number for number, _ in found] == sorted({number for number, _ in found})
    good = {number: item for number, item in found if isinstance(item, Reported)}
    wrong = {number: item.message for number, item in found if not isinstance(item, Reported)}
    return good, wrong


def test_lines_of_json_are_counted_as_in_the_file(tmp_path: Path) -> None:
    """Empty lines count and are no reports; a wrong line is told by its number."""
    content = b'\n{"request_id": "a", "value": 1}\r\n  \nno\n{"request_id": "b", "value": 0}'
    good, wrong = read(tmp_path / "reports.jsonl", content)
    assert good == {2: Reported("a", 1.0), 5: Reported("b", 0.0)}
    assert list(wrong) == [4]


def test_a_line_of_json_that_is_no_text(tmp_path: Path) -> None:
    """A byte that is not UTF-8 costs its own line only, before and after it others are read."""
    lines = [b'{"request_id": "%b", "value": 1}\n' % text for text in (b"a", b"\xff", "é".encode())]
    good, wrong = read(tmp_path / "reports.jsonl", b"".join(lines))
    assert good == {1: Reported("a", 1.0), 3: Reported("é", 1.0)}
    assert wrong[2].startswith("no JSON")


def test_rows_are_counted_as_in_the_file(tmp_path: Path) -> None:
    """Empty lines and quoted line breaks count; a row has its last line's number."""
    content = b'request_id,value\n\na,1\n\n"b\nc",x\nd,2\n"e\n\nf",0\n'
    good, wrong = read(tmp_path / "reports.csv", content)
    assert good == {3: Reported("a", 1.0), 7: Reported("d", 2.0), 10: Reported("e\n\nf", 0.0)}
    assert wrong == {6: "value 'x' is no number"}


def test_rows_with_a_mark_and_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A byte order mark is no part of a name, and what is no UTF-8 is in no id of ours."""
    content = b"\xef\xbb\xbfrequest_id,value\na,1\n\xff,1\nc,\xff\nd,2\n"
    good, wrong = read(tmp_path / "reports.csv", content)
    assert good == {2: Reported("a", 1.0), 3: Reported("\ufffd", 1.0), 5: Reported("d", 2.0)}
    assert list(wrong) == [4]


@pytest.mark.parametrize("name", ["reports.csv", "reports.jsonl"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    """It is named."""
    with pytest.raises(NotFound, match=name):
        list(read_reports(tmp_path / name, "outcome"))


@pytest.mark.parametrize("plane", [CONTROL, DATA])
def test_a_report_that_json_cannot_say_is_refused(plane: str) -> None:
    """With a code, whichever port it would go to."""
    with pytest.raises(InvalidRequest, match="cannot be said in JSON"):
        next(feedback(plane, "e", Reported("\udcff", 1.0)))


def test_a_question_that_json_cannot_say_is_refused() -> None:
    """With a code: numbers of more than 64 bits, and text that is none."""
    inputs = {"x": np.zeros((1, 1), np.float32)}
    for options in (PredictOptions(parameters={"n": 10**22}), PredictOptions(request_id="\udcff")):
        with pytest.raises(InvalidRequest, match="cannot be said in JSON"):
            next(predict("e", inputs, options))
