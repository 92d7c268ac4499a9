"""Run by an environment of its own: the suite's gRPC checks against small gRPC servers.

Prints one JSON line: for each server, whole or with one defect, how every gRPC check came out.
"""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from salver.conformance.catalog import checks  # noqa: E402 - after the path
from salver.conformance.grpc_messages import (  # noqa: E402
    CONTENTS,
    METHODS,
    SERVICE,
    message_classes,
)
from salver.conformance.runner import run_one  # noqa: E402
from salver.conformance.session import opened  # noqa: E402
from salver.conformance.tensors import FORMATS, pack, unpack  # noqa: E402
from tests.conformance.broken_server import TinyServer  # noqa: E402
from tests.conformance.oip_model import MODEL, Model, Reply, metadata  # noqa: E402

CLASSES = message_classes()
WHOLE_SIZES = {name: len(pack({"datatype": name, "data": [0]})) for name in FORMATS}


class Refusal(Exception):
    """A call that ends with a status."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Service:
    """A right gRPC server of the identity model without FP16, but for one ``fault``."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.refused = False

    def demand(self, fault: str, condition: object, code: str = "INVALID_ARGUMENT") -> None:
        """Refuse unless the condition holds, or this is the fault."""
        if not condition and fault != self.fault:
            self.refused = True
            raise Refusal("INTERNAL" if self.fault == "other codes" else code)

    def server_live(self, _: Any) -> dict[str, Any]:
        """Answer ServerLive."""
        return {"live": self.fault != "live"}

    def server_ready(self, _: Any) -> dict[str, Any]:
        """Answer ServerReady."""
        return {"ready": self.fault != "ready"}

    def model_ready(self, request: Any) -> dict[str, Any]:
        """Answer ModelReady."""
        self.demand("unknown ready", request.name == MODEL, "NOT_FOUND")
        return {"ready": self.fault != "model ready"}

    def server_metadata(self, _: Any) -> dict[str, Any]:
        """Answer ServerMetadata."""
        return {"name": "" if self.fault == "no name" else "tiny", "version": "0"}

    def model_metadata(self, request: Any) -> dict[str, Any]:
        """Answer ModelMetadata."""
        self.demand("unknown metadata", request.name == MODEL, "NOT_FOUND")
        document = slim_metadata()
        if self.fault == "model name":
            document["name"] = "other"
        return document

    def model_infer(self, request: Any) -> dict[str, Any]:
        """Answer ModelInfer."""
        self.demand("unknown infer", request.model_name == MODEL, "NOT_FOUND")
        if self.fault == "damage" and self.refused:
            raise Refusal("INTERNAL")
        raw = list(request.raw_input_contents)
        typed = [item for item in request.inputs if item.HasField("contents")]
        if self.fault == "refuses raw" and raw:
            raise Refusal("INVALID_ARGUMENT")
        if self.fault == "refuses typed" and typed:
            raise Refusal("INVALID_ARGUMENT")
        self.demand("mixed", not (raw and typed))
        self.demand("many raw", len(raw) <= len(request.inputs))
        values = {}
        for index, item in enumerate(request.inputs):
            name = item.datatype.lower()
            values[f"out_{name}"] = self._tensor(item, raw[index] if raw else None)
        wanted = [item.name for item in request.outputs] or list(values)
        if self.fault == "all outputs":
            wanted = list(values)
        return {
            "model_name": "" if self.fault == "no model name" else MODEL,
            "id": "" if self.fault == "no id" else request.id,
            "outputs": [values[name][0] for name in wanted],
            "raw_output_contents": [values[name][1] for name in wanted],
        }

    def _tensor(self, item: Any, raw: bytes | None) -> tuple[dict[str, Any], bytes]:
        count = 1
        for size in item.shape:
            count *= size
        if raw is None:
            data = list(getattr(item.contents, CONTENTS[item.datatype]))
            if item.datatype == "BYTES":
                data = [value.decode() for value in data]
        else:
            if item.datatype in WHOLE_SIZES:
                size = WHOLE_SIZES[item.datatype] * count
                self.demand("short raw", len(raw) >= size)
                self.demand("long raw", len(raw) <= size)
                raw = raw.ljust(size, b"\0")[:size]
            data = unpack(item.datatype, raw)
        self.demand("short typed", len(data) == count)
        name = f"out_{item.datatype.lower()}"
        output = {"name": name, "datatype": item.datatype, "shape": list(item.shape)}
        return output, pack({"datatype": item.datatype, "data": data})


BREAKS = {
    "live": "grpc.server_live",
    "ready": "grpc.server_ready",
    "model ready": "grpc.model_ready",
    "unknown ready": "grpc.unknown_not_ready",
    "no name": "grpc.server_metadata",
    "model name": "grpc.model_metadata",
    "unknown metadata": "grpc.metadata_of_unknown",
    "refuses raw": "grpc.raw_contents",
    "refuses typed": "grpc.typed_contents",
    "no id": "grpc.request_id",
    "no model name": "grpc.model_name",
    "all outputs": "grpc.chosen_outputs",
    "mixed": "grpc.mixed_contents",
    "short raw": "grpc.short_raw_contents",
    "long raw": "grpc.long_raw_contents",
    "many raw": "grpc.too_many_raw_contents",
    "short typed": "grpc.short_typed_contents",
    "unknown infer": "grpc.infer_unknown_model",
    "other codes": "grpc.codes",
    "damage": "grpc.still_answers",
}


def slim_metadata() -> dict[str, Any]:
    """Return the metadata without FP16, which has no typed contents."""
    document = metadata()
    for side in ("inputs", "outputs"):
        document[side] = [item for item in document[side] if item["datatype"] != "FP16"]
    return document


class SlimModel(Model):
    """The HTTP side's model without FP16."""

    def infer(self, body: bytes, length: str | None) -> Reply:
        """Answer with what the request holds, as the gRPC side does."""
        document = json.loads(body)
        for item in document["inputs"]:
            item["name"] = item["name"].replace("in_", "out_")
        return Reply({"model_name": MODEL, "outputs": document["inputs"]})


class SlimServer(TinyServer):
    """The HTTP side: only what the gRPC checks need of it."""

    def reply(self, method: str, path: str, body: bytes, length: str | None) -> Reply:
        """Answer with metadata that lack FP16."""
        found = super().reply(method, path, body, length)
        return Reply(slim_metadata()) if path == f"/v2/models/{MODEL}" else found


def handler(service: Service, method: str) -> grpc.RpcMethodHandler:
    """Return what answers one method."""
    name = "".join(f"_{char.lower()}" if char.isupper() else char for char in method)[1:]
    answer: Callable[[Any], dict[str, Any]] = getattr(service, name)

    def serve(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return CLASSES[f"{method}Response"](**answer(request))
        except Refusal as refusal:
            context.abort(grpc.StatusCode[refusal.code], "refused")

    return grpc.unary_unary_rpc_method_handler(
        serve,
        request_deserializer=CLASSES[f"{method}Request"].FromString,
        response_serializer=CLASSES[f"{method}Response"].SerializeToString,
    )


def outcomes(fault: str) -> dict[str, list[str]]:
    """Return verdict and reason of every gRPC check with this fault."""
    service = Service(fault)
    server = grpc.server(ThreadPoolExecutor(2))
    handlers = {method: handler(service, method) for method in METHODS}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with SlimServer() as http:
        http.model = SlimModel()
        with opened(http.url, MODEL, grpc=address) as subject:
            found = [
                run_one(subject, check)
                for check in checks(grpc=True)
                if check.name.startswith("grpc.")
            ]
    server.stop(None).wait()
    return {outcome.check.name: [str(outcome.verdict), outcome.reason] for outcome in found}


def main() -> None:
    """Ask the whole server, then each broken one."""
    found = {fault: outcomes(fault) for fault in ("", *BREAKS)}
    print(json.dumps({"breaks": BREAKS, "found": found}))


if __name__ == "__main__":
    main()
