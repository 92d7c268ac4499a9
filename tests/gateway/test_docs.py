"""What the data port says of itself to people and to generators of clients."""

import base64
import hashlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from salver.core.datatypes import DATATYPES
from salver.core.rows import body_to_tensors
from salver.core.signature import Column, Signature, TensorSpec
from salver.gateway.docs.openapi import endpoint_document, server_document
from salver.gateway.docs.page import render
from salver.gateway.validation import _first_violation
from salver.wire.messages import Plan
from tests.gateway import inprocess
from tests.gateway.inprocess import RunningServer, endpoint, exchange_bytes, post, split_reply
from tests.gateway.openapi_check import check_document, problems
from tests.gateway.test_auth import ALICE, BOB, entry

EVIL = "</style></code><script>alert('x')</script><img src=x onerror=\"alert(1)\">&amp;"
HOSTILE = Signature(
    (TensorSpec("x", "FP32", (-1, 2), (Column(EVIL, categories=("1", EVIL)), Column("b"))),),
    (TensorSpec(EVIL, "BYTES", (-1,)),),
)
DECLARED = Signature(
    (
        TensorSpec(
            "x",
            "INT64",
            (-1, 3),
            (
                Column("age", minimum=18.5, maximum=120),
                Column("level", categories=("3", "7")),
                Column("rest"),
            ),
        ),
    ),
    (TensorSpec("y", "INT64", (-1, 3)),),
)
LONG = Signature((TensorSpec("x", "FP32", (-1, 3, 224, 224)),), (TensorSpec("y", "FP32", (-1,)),))
PLAN = Plan(
    1,
    0,
    (
        *inprocess.PLAN.endpoints,
        endpoint("hostile", HOSTILE),
        endpoint("declared", DECLARED, "reject"),
        endpoint("long", LONG),
        msgspec.structs.replace(endpoint("theirs", DECLARED), tenant="other"),
    ),
)
READY = [e.name for e in PLAN.endpoints if e.variants and e.tenant == "default"]
ANSWERED = [name for name in READY if name not in ("long", "hostile")]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Give a server whose endpoints have all that a signature can say."""
    with RunningServer(plan=PLAN) as running:
        yield running


def get(
    server: RunningServer, path: str, *headers: str, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of a path."""
    lines = [f"{method} {path} HTTP/1.1", "Host: a", "Connection: close", *headers]
    return split_reply(exchange_bytes(server.port, ("\r\n".join(lines) + "\r\n\r\n").encode()))


def document_of(server: RunningServer, path: str) -> dict[str, Any]:
    """Return the OpenAPI document below a path."""
    status, headers, body = get(server, f"{path}/docs/openapi.json")
    assert (status, headers["content-type"]) == (200, "application/json")
    document: dict[str, Any] = orjson.loads(body)
    return document


def test_the_data_port_has_a_valid_document(server: RunningServer) -> None:
    """It is OpenAPI 3.1, and every path in it that takes GET is a path of this server."""
    document = document_of(server, "/v2")
    check_document(document)
    assert document == server_document()
    for path, item in document["paths"].items():
        real = path.replace("{model}", "two").replace("{version}", "1")
        method = "GET" if "get" in item else "OPTIONS"
        assert get(server, real, method=method)[0] == 200, path


@pytest.mark.parametrize("name", READY)
@pytest.mark.parametrize("versions", ["", "/versions/1"])
def test_every_endpoint_has_a_valid_document(
    server: RunningServer, name: str, versions: str
) -> None:
    """It is OpenAPI 3.1, and its paths are this endpoint's, of the version that was named.

    Reports are of the whole endpoint, since ids say which version answered.
    """
    base = f"/v2/models/{name}{versions}"
    document = document_of(server, base)
    check_document(document)
    reports = set() if versions else {f"{base}/feedback"}
    assert set(document["paths"]) == reports | {
        base, f"{base}/infer", f"{base}/ready", f"{base}/docs/openapi.json",
    }  # fmt: skip


@pytest.mark.parametrize("name", ANSWERED)
@pytest.mark.parametrize("versions", ["", "/versions/1"])
def test_the_example_is_accepted_and_the_answer_is_as_described(
    server: RunningServer, name: str, versions: str
) -> None:
    """The example from the document is answered with what the document says of answers."""
    base = f"/v2/models/{name}{versions}"
    document = document_of(server, base)
    operation = document["paths"][f"{base}/infer"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    request = post(f"{base}/infer", orjson.dumps(example))
    status, _, body = split_reply(exchange_bytes(server.port, request))
    assert status == 200, body
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert list(problems(orjson.loads(body), schema, document)) == []
    refused = split_reply(exchange_bytes(server.port, post(f"{base}/infer", b"{")))[2]
    schema = operation["responses"]["default"]["content"]["application/json"]["schema"]
    assert list(problems(orjson.loads(refused), schema, document)) == []


BOUNDS = st.none() | st.integers(-50, 50)


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    """Make signatures with tables, single values, images, categories and ranges."""
    specs = []
    for number in range(draw(st.integers(1, 3))):
        datatype = draw(st.sampled_from(DATATYPES))
        shape = draw(st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=3))
        columns = []
        if shape and shape[-1] > 0 and draw(st.booleans()):
            columns = [_column(draw, datatype, index) for index in range(shape[-1])]
        name = draw(st.text(max_size=5)) + str(number)
        optional = draw(st.booleans())
        specs.append(TensorSpec(name, datatype, tuple(shape), tuple(columns), optional))
    return Signature(tuple(specs), tuple(specs))


def _column(draw: st.DrawFn, datatype: str, index: int) -> Column:
    name = draw(st.text(max_size=5)) + str(index)
    kind = draw(st.sampled_from(["plain", "range", "categories"]))
    if kind == "categories":
        known = {"BYTES": ("a", "b"), "BOOL": ("True", "False")}
        return Column(name, categories=known.get(datatype, ("3", "5")))
    if kind == "plain" or datatype in ("BYTES", "BOOL"):
        return Column(name)
    low, high = draw(BOUNDS), draw(BOUNDS)
    if low is not None and high is not None:
        low, high = sorted((low, high))
    if datatype.startswith("UINT"):
        low, high = None if low is None else abs(low), 60 if high is None else 100 + high
    return Column(name, minimum=low, maximum=high)


@given(signature=signatures())
def test_whatever_the_signature_its_example_fits(signature: Signature) -> None:
    """Documents are valid, examples fit schema, signature and declared values, pages render."""
    plan = endpoint("m", signature)
    document = orjson.loads(orjson.dumps(endpoint_document(plan, plan.variants[0], None)))
    check_document(document)
    body = document["paths"]["/v2/models/m/infer"]["post"]["requestBody"]
    tensors = body_to_tensors(body["content"]["application/json"]["example"])
    signature.check_inputs(tensors)
    columns = {spec.name: spec.columns for spec in signature.inputs}
    for tensor in tensors:
        if columns[tensor.name]:
            assert _first_violation(tensor, columns[tensor.name]) == ""
    assert page_of(render(document)).titles == ["m"]


def test_declared_values_are_part_of_the_schema(server: RunningServer) -> None:
    """Rows within ranges and categories fit, and others do not."""
    document = document_of(server, "/v2/models/declared")
    schema = document["components"]["schemas"]["input_1"]
    good = {"name": "x", "shape": [1, 3], "datatype": "INT64", "data": [[19, 7, 5]]}
    assert list(problems(good, schema, document)) == []
    for bad in (
        {"data": [[18, 7, 5]]},
        {"data": [[121, 7, 5]]},
        {"data": [[19, 4, 5]]},
        {"data": [[19, 7]]},
        {"data": [[19, 7, 5.5]]},
        {"shape": [1, 4]},
        {"name": "z"},
        {"datatype": "FP32"},
    ):
        assert list(problems(good | bad, schema, document)), bad
    assert "refused" in document["info"]["description"]


def test_a_data_frame_is_part_of_the_schema(server: RunningServer) -> None:
    """Columns by name fit the described body, and so are answered; other names do not fit."""
    document = document_of(server, "/v2/models/declared")
    schema = document["components"]["schemas"]["InferenceRequest"]
    columns = [
        {"name": name, "shape": [1, 1], "datatype": "INT64", "data": [value]}
        for name, value in (("rest", 5), ("age", 30), ("level", 7))
    ]
    body = {"inputs": columns, "parameters": {"content_type": "pd"}}
    assert list(problems(body, schema, document)) == []
    request = post("/v2/models/declared/infer", orjson.dumps(body))
    status, _, answer = split_reply(exchange_bytes(server.port, request))
    assert (status, orjson.loads(answer)["outputs"][0]["data"]) == (200, [30, 7, 5])
    columns[0]["name"] = "other"
    assert list(problems(body, schema, document))


def test_a_very_long_example_is_left_out(server: RunningServer) -> None:
    """An image's document stays small enough to read."""
    status, _, body = get(server, "/v2/models/long/docs/openapi.json")
    assert status == 200
    assert len(body) < 20_000
    assert b'"example"' not in body


class Page(HTMLParser):
    """Keeps what a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.titles: list[str] = []
        self.text = ""
        self.style = ""
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag and its attributes."""
        self._open = tag
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "href":
                self.links.add(value or "")
            if name == "id":
                self.ids.add(value or "")

    def handle_data(self, data: str) -> None:
        """Keep text."""
        if self._open == "style":
            self.style += data
            return
        if self._open == "title":
            self.titles.append(data)
        self.text += data

    def handle_endtag(self, tag: str) -> None:
        """Leave a tag."""
        self._open = ""


def page_of(text: str) -> Page:
    """Return what is on a page, which must hold nothing that runs or fetches."""
    page = Page()
    page.feed(text)
    page.close()
    assert page.tags <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "a", "code", "pre",
        "table", "tr", "th", "td", "small", "b",
    }  # fmt: skip
    assert page.attributes <= {"lang", "charset", "name", "content", "href", "id"}
    for link in page.links:
        assert link.startswith(("#", "/v2/"))
        assert link[0] == "/" or link[1:] in page.ids
    assert "url(" not in page.style
    assert "@import" not in page.style
    return page


PAGES = ["/v2/docs", "/v2/docs/", "/v2/models/declared/docs", "/v2/models/two/versions/1/docs"]


@pytest.mark.parametrize("path", PAGES)
def test_pages_fetch_nothing_and_may_not(server: RunningServer, path: str) -> None:
    """The page stands alone, and its headers forbid the browser everything but its style."""
    status, headers, body = get(server, path)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert headers["x-content-type-options"] == "nosniff"
    page = page_of(body.decode())
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    policy = dict(
        rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert "POST /v2/models/" in page.text


def test_names_are_text_on_the_page(server: RunningServer) -> None:
    """Markup in names of inputs, outputs, columns and categories is shown, never obeyed."""
    _, _, body = get(server, "/v2/models/hostile/docs")
    page = page_of(body.decode())
    assert page.text.count(EVIL) >= 2
    assert orjson.dumps(EVIL).decode() in page.text


def test_the_page_tells_what_the_signature_declares(server: RunningServer) -> None:
    """Columns, categories, ranges, datatypes and the example are there to read."""
    text = page_of(get(server, "/v2/models/declared/docs")[2].decode()).text
    for words in ("age", "from 18.5 up to 120", "one of 3, 7", "INT64 of shape [any, 3]", '"data"'):
        assert words in text


def test_mlservers_name_of_the_document_works(server: RunningServer) -> None:
    """Callers that know MLServer's path find the same document."""
    for path in ("/v2", "/v2/models/two"):
        ours = get(server, f"{path}/docs/openapi.json")
        assert get(server, f"{path}/docs/dataplane.json")[2] == ours[2]
        assert ours[1]["x-content-type-options"] == "nosniff"
        assert get(server, f"{path}/docs/other.json")[0] == 404


@pytest.mark.parametrize("path", ["/v2/docs", "/v2/models/two/docs"])
def test_only_get_asks_for_docs(server: RunningServer, path: str) -> None:
    """HEAD has the headers of GET, OPTIONS lists the methods, anything else is refused."""
    status, headers, body = get(server, path, method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) == len(get(server, path)[2])
    assert get(server, path, method="OPTIONS")[1]["allow"] == "GET, HEAD, OPTIONS"
    assert get(server, path, method="PUT")[0] == 405


@pytest.mark.parametrize("suffix", ["docs", "docs/openapi.json"])
def test_docs_are_as_private_as_metadata(tmp_path: Path, suffix: str) -> None:
    """No key, a key for others, another tenant's endpoint: answered as for the metadata."""
    keys = tmp_path / "keys.yaml"
    entries = [entry(ALICE, principal="alice"), entry(BOB, principal="bob", endpoints=["two"])]
    keys.write_text(yaml.safe_dump({"keys": entries}))
    alice, bob = f"X-API-Key: {ALICE}", f"X-API-Key: {BOB}"
    with RunningServer(plan=PLAN, keys=keys) as server:
        assert get(server, f"/v2/{suffix}")[0] == 401
        assert get(server, f"/v2/{suffix}", bob)[0] == 200
        for name, header, expected in (
            ("two", "X-Nothing: 1", 401),
            ("two", bob, 200),
            ("hidden", bob, 403),
            ("hidden", alice, 200),
            ("theirs", alice, 404),
            ("none", alice, 404),
            ("two/versions/9", alice, 404),
            ("loading", alice, 503),
        ):
            status, _, body = get(server, f"/v2/models/{name}/{suffix}", header)
            metadata = get(server, f"/v2/models/{name}", header)
            assert (status, metadata[0]) == (expected, expected)
            if status != 200:
                fields = ("code", "error")
                told, as_told = orjson.loads(body), orjson.loads(metadata[2])
                assert [told[f] for f in fields] == [as_told[f] for f in fields]
