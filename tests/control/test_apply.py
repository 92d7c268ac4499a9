"""Endpoints that are kept in files: what differs is found, and nothing else is touched."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.client import admin
from salver.client.documents import read_documents
from salver.control.admission import BATCHINGS, VALIDATIONS
from salver.control.api.bodies import EndpointBody
from salver.control.api.specs import (
    EndpointFile,
    SourcedBody,
    document_of,
    read_files,
    spec_of,
)
from salver.control.apply import Wanted, changes, error_of, settled
from salver.control.rollouts.judging import Analysis
from salver.core.errors import InvalidExample, InvalidRequest
from salver.core.hosting import KINDS, PROVIDERS
from salver.core.routing import Routing, Rule
from salver.registry.records import EndpointSpec
from salver.rollout.policy import MetricSpec
from salver.scale.autoscale.policy import METRICS as SCALED_ON
from tests import models
from tests.e2e.server import Server, write_rows

METRIC = {"name": "late", "kind": "latency", "max_increase": 0.1}
HOOK = {"name": "desk", "url": "https://desk.example/", "on": ["paused"]}
FILE = {"kind": "Endpoint", "name": "churn", "model": "churn:2"}


def read(*documents: Any) -> list[Wanted]:
    """Read documents from files that are called by their number; raises what is wrong."""
    found, problems = read_files(
        [
            SourcedBody(source=f"{number}.yaml", document=document)
            for number, document in enumerate(documents)
        ]
    )
    error = error_of(problems)
    if error is not None:
        raise error
    return found


def wanted(**more: Any) -> Wanted:
    """Return what a file wants."""
    (item,) = read({**FILE, **more})
    return item


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
        ({**FILE, "routing": {"key": "cookie:x"}}, "0.yaml: routing: a routing key is one of"),
        (
            {**FILE, "rollout": {"min_request": 9}},
            "0.yaml: rollout.min_request: unknown key; did you mean 'min_requests'?",
        ),
        (
            {**FILE, "rollout": {"stpes": [5, 100]}},
            "0.yaml: rollout.stpes: unknown key; did you mean 'steps'?",
        ),
        (
            {**FILE, "routing": {"kye": "header:x"}},
            "0.yaml: routing.kye: unknown key; did you mean 'key'?",
        ),
        (
            {**FILE, "routing": {"rules": [{"to": "canary", "hedaers": {"a": "b"}}]}},
            "0.yaml: routing.rules.0.hedaers: unknown key; did you mean 'headers'?",
        ),
        (
            {**FILE, "rollout": {"analysis": {"alhpa": 0.1}}},
            "0.yaml: rollout.analysis.alhpa: unknown key; did you mean 'alpha'?",
        ),
        (
            {**FILE, "rollout": {"analysis": {"metrics": [{**METRIC, "marign": 1}]}}},
            "0.yaml: rollout.analysis.metrics.0.marign: unknown key",
        ),
        (
            {**FILE, "webhooks": [{**HOOK, "attemps": 1}]},
            "0.yaml: webhooks.0.attemps: unknown key; did you mean 'attempts'?",
        ),
        ({**FILE, "rollout": {"strategy": "hope"}}, "0.yaml: rollout: a rollout's strategy is"),
        ({**FILE, "rollout": {"analysis": 3}}, "0.yaml: rollout.analysis: Input should be"),
        ({**FILE, "validation": "maybe"}, "0.yaml: validation: Input should be 'off', 'warn' or"),
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


def test_a_bare_name_is_not_content_with_an_alias() -> None:
    """Who wants to follow it no more has a version of its own."""
    follows = {"churn": document_of(EndpointSpec("churn", "churn", alias="champion"))}
    item = wanted(model="churn", replicas=3)
    (change,) = changes([item], follows, ["churn"], prune=False)
    assert ("churn@champion", "churn") in [(f.before, f.after) for f in change.fields]
    assert settled([item], follows) == [item]


@pytest.mark.parametrize(
    ("model", "put"), [("churn", "churn:2"), ("churn:7", "churn:7"), ("other", "other")]
)
def test_other_changes_bring_no_newer_version(model: str, put: str) -> None:
    """What is put has the version that a bare name is content with."""
    (item,) = settled([wanted(model=model, replicas=3)], present())
    assert (item.model, item.spec.replicas) == (put, 3)
    assert settled([item], {}) == [item]


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
    (item,) = read(document_of(spec))
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
        both.write_text("kind: Endpoint\nname: a\nmodel: m\nmax_queue: 7\n")
        server.push(models.onnx_identity("FP32", 3), "m", "--example", str(rows))
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
        assert [(e["model"], e["version"]) for e in server.json("get", "endpoints")] == [("m", 1)]
        assert "b: removed" in applied
        assert server.salver("predict", "b", str(rows)).returncode == 1


def test_what_demands_approvals_is_forced_by_its_name(tmp_path: Path) -> None:
    """Pruning and lowering pass for the endpoints that are named, and for no other by the way."""
    rows = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    files = tmp_path / "all.yaml"

    def write(approvals: int, *names: str) -> None:
        document = "kind: Endpoint\nname: {}\nmodel: m:1\napprovals: {}\n"
        files.write_text("---\n".join(document.format(name, approvals) for name in names))

    with Server(tmp_path / "home") as server:
        server.push(models.onnx_identity("FP32", 2), "m", "--example", str(rows))

        def refused(*options: str) -> str:
            done = server.salver("apply", "-f", str(files), *options)
            assert done.returncode == 1
            assert "[approval_missing]" in done.stderr.decode()
            return done.stderr.decode()

        write(2, "a", "b", "c")
        server.ok("apply", "-f", str(files))
        write(2, "a")
        assert "salver apply --prune --force b" in refused("--prune")
        assert "endpoint 'c'" in refused("--prune", "--force", "b")
        assert sorted(e["name"] for e in server.json("get", "endpoints")) == ["a", "b", "c"]
        assert "c: removed" in server.ok(
            "apply", "-f", str(files), "--prune", "--force", "c", "--force", "b"
        )
        write(1, "a")
        refused()
        refused("--force", "b")
        assert "approvals: 2 -> 1" in server.ok("apply", "-f", str(files), "--force", "a")
        with server.client() as client:
            assert client.apply(files, force=["a"])["changes"][0]["action"] == "unchanged"
            events = client.run(admin.listing("events"))
    kept = {(e["subject"], e["details"]["change"], e["details"].get("forced"))
            for e in events if e["action"] == "apply"}  # fmt: skip
    expected = {(name, "remove", "true") for name in ("b", "c")}
    assert expected | {("a", "change", "true"), ("a", "create", None)} <= kept


BROKEN = """\
kind: Endpoint
name: b-{number}
model: m:1
{line}
"""
WRONG = {
    "validation: maybe": "validation: Input should be 'off', 'warn' or 'reject'",
    "batching: hope": "batching: Input should be 'fixed' or 'adaptive'",
    "scale_on: moon": "scale_on: Input should be 'concurrency', 'rate' or 'queue'",
    "hosting: cloud": "hosting: Input should be 'auto', 'shared' or 'dedicated'",
    "min_replicas: 3": "replicas: at least 3 and at most 1 replicas cannot be",
    "cpus: many": "hosting: 'many' are no CPUs",
    "rollout: {analysis: {alpha: 0.9}}": "rollout.analysis: alpha is a probability above 0",
    "webhooks: [{name: d, url: 'https://d.example/', on: [paused]}]": "webhooks: webhook 'd' calls",
    "hosting: shared\nmemory_limit_bytes: 536870912": "hosting: limits of CPUs, memory or GPU",
}


def test_nothing_is_half_applied(tmp_path: Path) -> None:
    """What a dry run takes is applied; all that is wrong is told at once, with file and key."""
    folder = tmp_path / "endpoints"
    folder.mkdir()
    rows = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    good = folder / "a.yaml"
    good.write_text("kind: Endpoint\nname: a\nmodel: m:1\n")
    with Server(tmp_path / "home") as server:
        server.push(models.onnx_identity("FP32", 2), "m", "--example", str(rows))
        for number, line in enumerate(WRONG):
            (folder / f"b{number}.yaml").write_text(BROKEN.format(number=number, line=line))
        for option in (["--dry-run"], []):
            refused = server.salver("apply", "-f", str(folder), *option)
            assert refused.returncode == 1
            for number, problem in enumerate(WRONG.values()):
                assert f"b{number}.yaml: {problem}" in refused.stderr.decode()
            assert "(none)" in server.ok("get", "endpoints")
        for path in folder.glob("b*.yaml"):
            path.unlink()
        bad = folder / "b.yaml"
        for model, code in (("n:1", "model_not_found"), ("m:7", "version_not_found")):
            bad.write_text(f"kind: Endpoint\nname: b\nmodel: {model}\n")
            for option in (["--dry-run"], []):
                refused = server.salver("apply", "-f", str(folder), *option)
                assert f"[{code}]" in refused.stderr.decode()
                assert "b.yaml: model: " in refused.stderr.decode()
                assert "(none)" in server.ok("get", "endpoints")
        bad.unlink()
        server.ok("apply", "-f", str(folder))
        server.ok("freeze", "a", "--reason", "incident")
        good.write_text("kind: Endpoint\nname: a\nmodel: m:1\nmax_queue: 9\n")
        (folder / "0.yaml").write_text("kind: Endpoint\nname: '0'\nmodel: m:1\n")
        refused = server.salver("apply", "-f", str(folder), "--dry-run")
        assert "a.yaml: endpoint 'a' is frozen" in refused.stderr.decode()
        assert "[endpoint_frozen]" in refused.stderr.decode()
        # What differs can be seen all the same, by programs with why it cannot be applied.
        assert "max_queue: none -> 9" in server.salver("diff", "-f", str(folder)).stdout.decode()
        with server.client() as client:
            answer = client.apply(folder, dry_run=True)
        assert answer["refused"]["code"] == "endpoint_frozen"


def test_words_of_the_files_are_words(tmp_path: Path) -> None:
    """YAML of old takes on, off, yes and no for true and false; keys are text."""
    path = tmp_path / "e.yaml"
    path.write_text("kind: Endpoint\nvalidation: off\nwebhooks: [{on: [paused]}]\ncache: true\n")
    ((source, document),) = read_documents(path)
    assert source == str(path)
    assert document == {
        "kind": "Endpoint", "validation": "off", "webhooks": [{"on": ["paused"]}], "cache": True,
    }  # fmt: skip
    path.write_text("kind: Endpoint\n2: b\n")
    with pytest.raises(InvalidExample, match="a key is text, and 2 is not"):
        read_documents(path)


def test_what_a_file_may_say_is_what_the_server_takes() -> None:
    """The words of the schema are those that are checked when something is deployed by hand."""
    shown = EndpointFile.model_json_schema()["properties"]
    for key, words in (
        ("validation", VALIDATIONS),
        ("batching", BATCHINGS),
        ("scale_on", SCALED_ON),
        ("hosting", KINDS),
        ("provider", PROVIDERS),
    ):
        assert tuple(shown[key]["enum"]) == words


def test_the_schema_knows_the_keys_below_the_top_level() -> None:
    """Editors complete and check what routing, rules, an analysis and its metrics have."""
    known = EndpointFile.model_json_schema()["$defs"]
    for struct in (Routing, Rule, Analysis, MetricSpec):
        shown = known[struct.__name__]
        assert set(shown["properties"]) == set(struct.__struct_fields__)
        assert shown["additionalProperties"] is False
    assert set(known["MetricSpec"]["required"]) == {"name", "kind", "max_increase"}


def test_thousands_of_unknown_keys_are_refused_quickly() -> None:
    """Near names are looked for a few times only, and never for long keys."""
    many = {f"{'x' * 3000}{number}": 1 for number in range(3000)}
    with pytest.raises(InvalidRequest, match="and 2990 more"):
        read({**FILE, "rollout": {"analysis": many}})


def test_a_file_that_says_nothing_of_rules_means_none() -> None:
    """A deploy keeps approvals and webhooks; a file is the whole truth, an empty field included."""
    for more in ({}, {"approvals": None, "webhooks": None}):
        spec = wanted(**more).spec
        assert (spec.approvals, spec.webhooks) == (0, ())
    deployed = spec_of("e", EndpointBody(model="m"))
    assert (deployed.approvals, deployed.webhooks) == (None, None)


def test_webhooks_come_back_as_they_were_written() -> None:
    """What an endpoint has is shown as a file would say it, its rollout's own webhooks too."""
    whole = {**HOOK, "timeout_s": 10.0, "attempts": 5, "budget_s": 120.0}
    more = {"approvals": 2, "webhooks": [HOOK], "rollout": {"webhooks": [HOOK]}}
    shown = document_of(wanted(**more).spec)
    assert (shown["approvals"], shown["webhooks"]) == (2, [whole])
    assert shown["rollout"]["webhooks"] == [whole]
    again = wanted(**{**shown, "model": "churn:2"}).spec
    assert document_of(again) == shown
    with pytest.raises(InvalidRequest, match="webhooks"):
        wanted(webhooks=[{**HOOK, "on": ["never"]}])
