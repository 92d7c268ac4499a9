"""The page of the documentation: how to use the suite, every check, and what servers did."""

from typing import Any

from salver.conformance.base import Check, Verdict
from salver.conformance.catalog import SECTIONS, checks

_HEAD = """# Conformance

`salver conformance` checks a server of any make against the Open Inference Protocol from outside,
sentence by sentence, over HTTP and, where `--grpc` names an address, over gRPC.

```sh
salver conformance http://127.0.0.1:8080 --model churn
salver conformance http://127.0.0.1:8080 --model churn --example request.json -o json --verbose
salver conformance http://127.0.0.1:8080 --model churn --grpc 127.0.0.1:8081
salver conformance http://127.0.0.1:8080 --model churn --model texts --model pair
pytest -p salver.conformance.plugin --pyargs salver.conformance \\
    --base-url http://127.0.0.1:8080 --model churn
```

It needs one model that is ready. With `--model` repeated, what cannot be asked of the first is
asked of the next that suits: an input as binary data beside one as JSON needs a model with two.
Requests are made up from the model's metadata: variable dimensions are 1, values are small numbers,
`true` and `false`, or short texts. Where a model refuses such values, `--example` names a file with
one request as JSON, for the first model; the checks change that one instead. Nothing is loaded,
unloaded or configured, but wrong requests are part of the suite, and the last check sends shapes
that a weak server does not survive: do not ask one that others need.

gRPC needs the packages `grpcio` and `protobuf`, which Salver itself does without; nothing is
generated from the protocol's `.proto`.

Every check stands for a sentence of a document, which is quoted below. A failed check shows what
was sent and what came back; `--verbose` shows it for all. Long bodies are cut, keys never shown.

| level | meaning |
|---|---|
| required | the protocol says so |
| recommended | the protocol leaves it open, but clients rely on it |
| extension | part of an extension; asked only where the server names that extension |

Exit codes: 0 when everything required passes, and everything of the extensions that the server
itself names; 1 when not; 2 when the server cannot be asked. A check that cannot be asked of this
server or model is *not applicable* and says why. Under pytest such a check is skipped, and one that
is only recommended may fail (xfail).

The protocol asks for "an HTTP error status (typically 400)", so a refusal is required to be 400 to
599 with `{"error": text}`; that the caller's mistakes are 400 to 499 is one recommended check.

Each check was seen to fail: `tests/conformance/` runs the suite against a small right server, which
passes everything, and against that server with one defect at a time.

The documents are `inference_rest.md`, `open_inference_rest.yaml` and `open_inference_grpc.proto` of
kserve/open-inference-protocol, `required_api.md` (Predict Protocol Version 2) of kserve/kserve,
from which they came and which still holds what the newer text lost (errors, tensor data), the pages
`extension_*.md` of triton-inference-server/server, and RFC 9112.
"""
_SETTING = (
    "the same small model on each server, with one FP32 input, an INT64 and an FP32 output, asked "
    "over REST and over gRPC, and for each datatype a model that gives its tensor back, and one "
    "that gives back two, asked for what the first has no tensor for. "
    "Under Triton and MLServer they are a few lines of Python (`bench/peers/`) that check "
    "nothing themselves, so what is not refused there was left to the model by the server. "
    "`-` is not applicable."
)
_SIGNS = {"passed": "yes", "failed": "**no**", "not applicable": "-"}


def page(results: dict[str, Any]) -> str:
    """Return the page; ``results`` is what `scripts/peers.py` wrote down, empty if nothing."""
    parts = [_HEAD, "## Checks\n"]
    for section in SECTIONS:
        rows = [_row(check) for check in section.checks]
        head = "| check | level | demand | from |\n|---|---|---|---|"
        parts.append("\n".join([f"### {section.title}\n", head, *rows]) + "\n")
    if results:
        parts.append(_results(results))
    return "\n".join(parts)


def _row(check: Check) -> str:
    reference = check.reference
    origin = f"{reference.document}, {reference.heading}: “{reference.quote}”"
    return f"| `{check.name}` | {check.level} | {_cell(check.demand)} | {_cell(origin)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _results(results: dict[str, Any]) -> str:
    servers = results["servers"]
    names = [server["name"] for server in servers]
    lines = [
        "## What servers do\n",
        f"Seen on {results['date']} with `make peers`: {_SETTING}\n",
        f"| check | level | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
    ]
    asked = {name for server in servers for name in server["checks"]}
    for check in checks(grpc=True):
        if check.name in asked:
            cells = [_SIGNS[_verdict(server, check)] for server in servers]
            lines.append(f"| `{check.name}` | {check.level} | {' | '.join(cells)} |")
    for server in servers:
        lines.append(f"\n### {server['name']} {server['version']}\n")
        lines.append(f"{server['summary']}\n")
        failed = {n: o for n, o in server["checks"].items() if o["verdict"] == Verdict.FAILED}
        lines += [f"- `{name}`: {_cell(entry['reason'])}" for name, entry in failed.items()]
    return "\n".join(lines) + "\n"


def _verdict(server: dict[str, Any], check: Check) -> str:
    """Return how a check came out; one that is newer than the results was not asked."""
    return str(server["checks"].get(check.name, {"verdict": Verdict.NOT_APPLICABLE})["verdict"])
