"""Endpoints that are kept in files: what differs is found, and nothing else is touched."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.control.api.specs import (
    EndpointFile,
    SourcedBody,
    document_of,
    read_files,
    spec_of,
)
from salver.control.apply import Wanted, changes
from salver.core.errors import InvalidRequest
from salver.registry.records import EndpointSpec
from tests import models
from tests.e2e.server import Server, write_rows

FILE = {"kind": "Endpoint", "name": "churn", "model": "churn:2"}


def read(*documents: Any) -> list[EndpointFile]:
    """Read documents from files that are called by their number."""
    return read_files(
        [
            SourcedBody(source=f"{number}.yaml", document=document)
            for number, document in enumerate(documents)
        ]
    )


def wanted(**more: Any) -> Wanted:
    """Return what a file wants."""
    (file,) = read({**FILE, **more})
    spec = spec_of(file.name, file)
    return Wanted(spec, file.model, document_of(spec) | {"model": file.model})


def present(**fields: Any) -> dict[str, Any]:
    """Return the document of the endpoint that is there."""
    return {"churn": document_of(EndpointSpec("churn", "churn", 2, **fields))}


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({**FILE, "replica": 2}, "0.yaml: replica: unknown key; did you mean 'replicas'?"),
        ({**FILE, "zzz": 2}, "0.yaml: zzz: unknown key"),
        ({**FILE, "kind": "Model"}, "0.yaml: kind: Input should be 'Endpoint'"),
        ({"kind": "Endpoint", "name": "churn"}, "0.yaml: model: Field required"),
        ({**FILE, "replicas": "2"}, "0.yaml: replicas: Input should be a valid integer"),
        ({**FILE, "replicas": 0}, "0.yaml: replicas: Input should be greater than or equal to 1"),
        ({**FILE, "name": "../x"}, "0.yaml: "),
        ({**FILE, "model": "churn:0:1"}, "0.yaml: "),
        ({**FILE, "routing": {"key": "cookie:x"}}, "0.yaml: a routing key is one of"),
        (["no", "mapping"], "0.yaml: Input should be a valid dictionary"),
        ("text", "0.yaml: "),
    ],
)
def test_a_file_that_is_wrong_is_named(document: Any, problem: str) -> None:
    """With what is wrong, and the key that was meant."""
    with pytest.raises(InvalidRequest) as raised:
        read(document)
    assert raised.value.message.startswith(problem)


def test_all_problems_are_told_at_once() -> None:
    """Whoever mends one need not run it again to learn of the next; the list is bounded."""
    with pytest.raises(InvalidRequest) as raised:
        read(*[{**FILE, "name": f"e{number}", "replica": 1} for number in range(15)])
    assert raised.value.message.count("did you mean") == 10
    assert "and 5 more" in raised.value.message


def test_an_endpoint_is_in_one_file() -> None:
    """Else it would depend on their order what it is."""
    with pytest.raises(InvalidRequest, match=r"1.yaml: endpoint 'churn' is also in 0.yaml"):
        read(FILE, FILE)


def test_only_what_differs_is_a_change() -> None:
    """Fields that a file leaves out have their defaults."""
    (change,) = changes([wanted(replicas=3)], present(), ["churn"], prune=False)
    assert (change.action, [(f.field, f.before, f.after) for f in change.fields]) == (
        "change",
        [("replicas", 1, 3)],
    )
    (change,) = changes([wanted()], present(cache=True), ["churn"], prune=False)
    assert [(f.field, f.before, f.after) for f in change.fields] == [("cache", True, False)]
    (change,) = changes([wanted()], present(), ["churn"], prune=False)
    assert change.action == "unchanged"
    (change,) = changes([wanted()], {}, [], prune=False)
    assert change.action == "create"


def test_a_bare_name_is_content_with_any_version() -> None:
    """It pins the newest when it is applied, and does not move by itself afterwards."""
    (change,) = changes([wanted(model="churn")], present(), ["churn"], prune=False)
    assert change.action == "unchanged"
    (change,) = changes([wanted(model="other")], present(), ["churn"], prune=False)
    assert [(f.before, f.after) for f in change.fields] == [("churn:2", "other")]
    (change,) = changes([wanted(model="churn@champion")], present(), ["churn"], prune=False)
    assert [(f.before, f.after) for f in change.fields] == [("churn:2", "churn@champion")]


def test_pruning_removes_only_what_came_from_files() -> None:
    """What somebody deployed by hand stays."""
    there = present() | {
        name: document_of(EndpointSpec(name, "churn", 1)) for name in ("old", "by-hand")
    }
    found = changes([wanted()], there, ["churn", "old"], prune=True)
    assert [(change.name, change.action) for change in found] == [
        ("churn", "unchanged"),
        ("old", "remove"),
    ]
    kept = changes([wanted()], there, ["churn", "old"], prune=False)
    assert [change.name for change in kept] == ["churn"]


def test_an_endpoint_made_by_hand_is_taken_over() -> None:
    """Even when nothing else differs, so that pruning knows it later."""
    (change,) = changes([wanted()], present(), [], prune=False)
    assert (change.action, [f.field for f in change.fields]) == ("change", ["kept in files"])


@given(
    st.builds(
        EndpointSpec,
        st.just("churn"),
        st.just("churn"),
        st.integers(1, 9),
        replicas=st.integers(1, 64),
        cache=st.booleans(),
        max_queue=st.none() | st.integers(1, 1000),
        max_padding=st.floats(0, 0.9),
    )
)
def test_what_is_shown_can_be_applied_and_changes_nothing(spec: EndpointSpec) -> None:
    """A file written from an endpoint means that endpoint."""
    (file,) = read(document_of(spec))
    again = spec_of(file.name, file)
    item = Wanted(again, file.model, document_of(again) | {"model": file.model})
    (change,) = changes([item], {"churn": document_of(spec)}, ["churn"], prune=True)
    assert change.action == "unchanged"


def test_files_are_applied_to_a_server(tmp_path: Path) -> None:
    """Dry run, apply, diff, change, prune; a file that is wrong changes nothing."""
    folder = tmp_path / "endpoints"
    folder.mkdir()
    rows = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    with Server(tmp_path / "home") as server:
        server.push(models.onnx_identity("FP32", 2), "m", "--example", str(rows))
        both = folder / "both.yaml"
        both.write_text(
            "kind: Endpoint\nname: a\nmodel: m:1\n---\n"
            "kind: Endpoint\nname: b\nmodel: m\nrouting: {key: 'header:x-user'}\n"
        )
        dry = server.ok("apply", "-f", str(folder), "--dry-run")
        assert "a: create" in dry
        assert "nothing was changed" in dry
        assert "(none)" in server.ok("get", "endpoints")
        assert "b: created" in server.ok("apply", "-f", str(folder))
        assert server.ok("predict", "a", str(rows))
        assert server.ok("diff", "-f", str(folder)) == ""
        both.write_text("kind: Endpoint\nname: a\nmodel: m:1\nmax_queue: 7\n")
        differs = server.salver("diff", "-f", str(folder), "--prune")
        assert differs.returncode == 1
        assert "max_queue: none -> 7" in differs.stdout.decode()
        assert "b: remove" in differs.stdout.decode()
        (folder / "wrong.yaml").write_text("kind: Endpoint\nname: c\nmodle: m\n")
        refused = server.salver("apply", "-f", str(folder), "--prune")
        assert refused.returncode == 1
        assert "wrong.yaml: modle: unknown key; did you mean 'model'?" in refused.stderr.decode()
        assert server.salver("diff", "-f", str(both), "--prune").returncode == 1
        applied = server.ok("apply", "-f", str(both), "--prune")
        assert "a: changed" in applied
        assert "b: removed" in applied
        assert server.salver("predict", "b", str(rows)).returncode == 1
