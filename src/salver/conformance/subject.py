"""The server under test: its address, one of its models, and requests that suit that model."""

import json
from copy import deepcopy
from typing import Any
from urllib.parse import quote

from salver.conformance.base import Failed, NotApplicable
from salver.conformance.client import Client
from salver.conformance.exchange import BrokenAnswer, Exchange
from salver.conformance.grpc_client import GrpcClient
from salver.conformance.outputs import Answer, read_answer
from salver.conformance.tensors import KNOWN, Spec, same, synthetic
from salver.core.errors import InvalidExample, InvalidRequest, NotReady, Unauthenticated

JSON_TYPE = "application/json"
UNKNOWN = "no-such-thing-7f3a"
_OK = 200
_UNAUTHORIZED = (401, 403)


class Subject:
    """What checks ask; ``prepare`` must have returned before the first check runs."""

    def __init__(self, client: Client, model: str = "", example: Any = None) -> None:
        self.client = client
        self.model = model
        self.grpc: GrpcClient | None = None
        self.others: tuple[Subject, ...] = ()
        """The same server with other models, for what this one cannot be asked."""
        self._example = example
        self._extensions: tuple[str, ...] = ()
        self._metadata: Any = None
        self._good: Answer | None = None
        self._repeated: set[str] = set()
        self._trouble = ""

    def prepare(self) -> None:
        """Look at the server once.

        Raises ``NotReady`` where nothing answers, ``Unauthenticated`` where a key is missing,
        ``InvalidRequest`` where no model is named and the server cannot list any, and
        ``InvalidExample`` where the example is no inference request.
        """
        server = self._reach()
        document = _document(server)
        if isinstance(document, dict) and isinstance(document.get("extensions"), list):
            self._extensions = tuple(str(name) for name in document["extensions"])
        self.model = self.model or self._first_model()
        self._metadata = _document(self.client.ask("GET", self.model_path()))
        self._try_good()
        self.client.forget()

    def _reach(self) -> Exchange:
        first = self.client.ask("GET", "/v2/health/live")
        server = self.client.ask("GET", "/v2")
        if not first.status and not server.status:
            raise NotReady(
                f"{self.client.url} cannot be asked ({first.error}); start the server, or give "
                f"the address of its HTTP port"
            )
        if server.status in _UNAUTHORIZED:
            raise Unauthenticated(
                f"{self.client.url} answers {server.status}; give a key that it knows with "
                f"--api-key"
            )
        return server

    def _first_model(self) -> str:
        """Return the first model of a repository index, which is an extension."""
        listed = _document(self.client.ask("POST", "/v2/repository/index", b"{}"))
        for item in listed if isinstance(listed, list) else ():
            if isinstance(item, dict) and isinstance(item.get("name"), str):
                return str(item["name"])
        raise InvalidRequest(
            "the protocol has no list of models, and this server has no repository index; "
            "name a model with --model"
        )

    def _try_good(self) -> None:
        if self._example is not None:
            inputs = self._example.get("inputs") if isinstance(self._example, dict) else None
            if not isinstance(inputs, list) or not all(isinstance(item, dict) for item in inputs):
                raise InvalidExample(
                    "the example is no inference request; it is a JSON object with 'inputs'"
                )
        try:
            self._good = read_answer(self.infer(self.request()))
            again = read_answer(self.infer(self.request()))
            self._repeated = {
                output.name
                for output in self._good.outputs
                if same(output.data, again.output(output.name).data)
            }
        except (Failed, NotApplicable) as trouble:
            self._trouble = str(trouble)

    def model_path(self, version: str = "", model: str = "") -> str:
        """Return the path of the model, or of another one."""
        path = f"/v2/models/{quote(model or self.model, safe='')}"
        return f"{path}/versions/{quote(version, safe='')}" if version else path

    def get(self, path: str) -> Exchange:
        """Ask with GET."""
        return self.client.ask("GET", path)

    def infer(self, document: Any, version: str = "", model: str = "") -> Exchange:
        """Ask for an inference with a JSON document, or with bytes as they are."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        path = f"{self.model_path(version, model)}/infer"
        return self.client.ask("POST", path, body, {"Content-Type": JSON_TYPE})

    def infer_binary(self, document: Any, raw: bytes, length: str = "") -> Exchange:
        """Ask with JSON followed by binary data; ``length`` replaces the right length of JSON."""
        head = json.dumps(document).encode()
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": length or str(len(head)),
        }
        return self.client.ask("POST", f"{self.model_path()}/infer", head + raw, headers)

    def metadata(self) -> dict[str, Any]:
        """Return the model's metadata; raises ``NotApplicable`` where there are none."""
        if not isinstance(self._metadata, dict):
            raise NotApplicable("the server gave no metadata of the model")
        return self._metadata

    def specs(self, side: str) -> list[Spec]:
        """Return the model's ``inputs`` or ``outputs`` as far as the metadata can be read."""
        found = []
        listed = self.metadata().get(side)
        for item in listed if isinstance(listed, list) else ():
            spec = _spec(item)
            if spec is None:
                raise NotApplicable(f"the metadata's {side!r} cannot be read")
            found.append(spec)
        if not found:
            raise NotApplicable(f"the metadata name no {side}")
        return found

    def versions(self) -> list[str]:
        """Return the versions that may be asked; raises ``NotApplicable`` where there are none."""
        found = self.metadata().get("versions")
        versions = [item for item in found if isinstance(item, str)] if found else []
        if not versions:
            raise NotApplicable("the metadata name no versions")
        return versions

    def request(self) -> dict[str, Any]:
        """Return a new request that suits the model, without an id."""
        if self._example is not None:
            document: dict[str, Any] = deepcopy(self._example)
            document.pop("id", None)
            return document
        try:
            # Neighbours differ, or nobody would see that a server takes one for the other.
            specs = enumerate(self.specs("inputs"))
            return {"inputs": [synthetic(spec, index % 2) for index, spec in specs]}
        except BrokenAnswer as error:
            raise NotApplicable(f"{error}; give a request with --example") from error

    @property
    def is_answered(self) -> bool:
        """Whether the model answers ``request``."""
        return self._good is not None

    def good(self) -> Answer:
        """Return the answer to ``request``; raises ``NotApplicable`` where there is none.

        Without it a refusal of something wrong would mean nothing.
        """
        if self._good is None:
            raise NotApplicable(
                f"the model does not answer the request that was made for it ({self._trouble}); "
                f"give one with --example"
            )
        return self._good

    def good_request(self) -> dict[str, Any]:
        """Return a new request that the model answers; raises ``NotApplicable``."""
        self.good()
        return self.request()

    def demand_good(self, answer: Answer) -> None:
        """Demand every output of the good answer, whatever its form.

        Values count only where the model gave the same ones twice. Raises ``Failed``.
        """
        for wanted in self.good().outputs:
            found = answer.output(wanted.name)
            if found.datatype != wanted.datatype or found.shape != wanted.shape:
                raise Failed(
                    f"output {found.name!r} is {found.datatype} {found.shape} instead of "
                    f"{wanted.datatype} {wanted.shape}"
                )
            if wanted.name in self._repeated and not same(found.data, wanted.data):
                raise Failed(f"output {found.name!r} has other values than for the same input")

    def extension(self, *names: str) -> None:
        """Raise ``NotApplicable`` unless the server names one of these extensions."""
        if not set(names) & set(self._extensions):
            raise NotApplicable(f"the server does not name the extension {names[0]!r}")


def _document(exchange: Exchange) -> Any:
    try:
        return exchange.json() if exchange.status == _OK else None
    except BrokenAnswer:
        return None


def _spec(item: Any) -> Spec | None:
    if not isinstance(item, dict):
        return None
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str) or datatype not in KNOWN or not isinstance(shape, list):
        return None
    if not all(isinstance(size, int) and size >= -1 for size in shape):
        return None
    return Spec(name, str(datatype), tuple(shape))
