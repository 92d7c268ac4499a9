"""A small model server's answers, with a name for everything that may be left out on purpose."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from salver.conformance.tensors import (
    BYTES,
    DATATYPES,
    FORMATS,
    flat,
    is_integer,
    nested,
    pack,
    unfit,
    unpack,
)

MODEL = "Everything"
VERSION = "1"
SHAPE = [-1, 2]


class Refused(Exception):
    """The caller got something wrong."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Reply:
    """An answer before it is written; ``raw`` follows the document, ``body`` replaces both."""

    document: Any
    status: int = 200
    raw: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


def metadata() -> dict[str, Any]:
    """Return what the model says of itself."""
    sides = {
        side: [
            {"name": f"{prefix}_{name.lower()}", "datatype": name, "shape": SHAPE}
            for name in DATATYPES
        ]
        for side, prefix in (("inputs", "in"), ("outputs", "out"))
    }
    return {"name": MODEL, "versions": [VERSION], "platform": "test", **sides}


class Model:
    """Gives back what it gets, once for each datatype; ``faults`` are checks it leaves out."""

    def __init__(self, faults: frozenset[str] = frozenset()) -> None:
        self.faults = faults
        self.count = 0
        self.refusals = 0

    def demand(self, fault: str, condition: object, message: str = "wrong request") -> None:
        """Refuse the request unless the condition holds, or this demand is left out."""
        if not condition and fault not in self.faults:
            raise Refused(400, message)

    def infer(self, body: bytes, length: str | None) -> Reply:
        """Answer a request; what a left out demand let through is answered somehow."""
        if "damage" in self.faults and self.refusals:
            raise Refused(500, "something broke earlier")
        try:
            reply = self._infer(body, length)
        except Refused:
            self.refusals += 1
            raise
        except Exception:
            if not self.faults:
                raise
            outputs = [self._output(name, [1, 2], [], False) for name in DATATYPES]
            reply = Reply({"model_name": MODEL, "outputs": [output for output, _ in outputs]})
        self.count += 1
        return reply

    def _infer(self, body: bytes, length: str | None) -> Reply:
        head, rest = body, b""
        if length is not None:
            self.demand("length number", length.isdigit())
            self.demand("length end", int(length) <= len(body))
            head, rest = body[: int(length)], body[int(length) :]
        document = self._parse(head)
        values = self._inputs(document, rest)
        answer: dict[str, Any] = {"model_name": MODEL, "model_version": VERSION}
        if document.get("id") is not None:
            answer["id"] = document["id"]
        outputs = self._outputs(document, values)
        answer["outputs"] = [output for output, _ in outputs]
        raw = b"".join(part for _, part in outputs)
        headers = {"Content-Type": "application/json"}
        if any("parameters" in output for output, _ in outputs):
            size = len(json.dumps(answer).encode())
            headers = {
                "Content-Type": "application/octet-stream",
                "Inference-Header-Content-Length": str(size),
            }
        return Reply(answer, raw=raw, headers=headers)

    def _parse(self, head: bytes) -> dict[str, Any]:
        self.demand("empty", head)
        try:
            document = json.loads(head)
        except ValueError:
            self.demand("json", not head)
            raise
        self.demand("object", isinstance(document, dict))
        self.demand("inputs", isinstance(document.get("inputs"), list))
        if "refuses parameters" in self.faults and document.get("parameters"):
            raise Refused(400, "unknown parameter")
        if "refuses empty parameters" in self.faults and document.get("parameters") == {}:
            raise Refused(400, "empty parameters")
        if "refuses unknown fields" in self.faults and set(document) - {
            "id", "parameters", "inputs", "outputs",
        }:  # fmt: skip
            raise Refused(400, "unknown field")
        return document  # type: ignore[no-any-return]

    def _inputs(self, document: dict[str, Any], rest: bytes) -> dict[str, tuple[list[int], Any]]:
        found, at = {}, 0
        kinds = {"data" in item for item in document["inputs"]}
        if "refuses mixed" in self.faults and len(kinds) > 1:
            raise Refused(400, "all inputs shall be of one kind")
        for item in document["inputs"]:
            for name in ("name", "shape", "datatype"):
                self.demand(f"no {name}", name in item)
            size = item.get("parameters", {}).get("binary_data_size")
            self.demand("no data", "data" in item or size is not None)
            datatype = self._datatype(item)
            shape, count = self._shape(item["shape"])
            if size is None:
                values = self._json(datatype, item["data"], shape, count)
            else:
                if "refuses binary" in self.faults:
                    raise Refused(400, "no binary data")
                self.demand("size negative", size >= 0)
                size = abs(size)
                self.demand("size end", at + size <= len(rest))
                values = self._binary(datatype, rest[at : at + size], count)
                at += size
            if "mixed ignored" in self.faults and len(kinds) > 1 and size is not None:
                values = [type(value)() for value in values]
            found[datatype] = (shape, values)
        if "mixed order" in self.faults:
            found = self._by_kind(document, found)
        self.demand("bytes left", at == len(rest))
        self.demand("missing input", set(found) >= set(DATATYPES))
        return found

    def _by_kind(
        self, document: dict[str, Any], found: dict[str, tuple[list[int], Any]]
    ) -> dict[str, tuple[list[int], Any]]:
        """Give values to inputs by position, first all that came as JSON."""
        is_binary = ["data" not in item for item in document["inputs"]]
        by_kind = sorted(zip(is_binary, found.values(), strict=True), key=lambda pair: pair[0])
        return dict(zip(found, (values for _, values in by_kind), strict=True))

    def _datatype(self, item: dict[str, Any]) -> str:
        datatype = item["datatype"]
        own = item["name"].removeprefix("in_").upper()
        if item["name"] != f"in_{own.lower()}" or own not in DATATYPES:
            self.demand("unknown input", False)
            return str(datatype)
        if datatype != own:
            if datatype.upper() == own:
                self.demand("datatype case", False)
            elif datatype in DATATYPES:
                self.demand("other datatype", False)
            else:
                self.demand("unknown datatype", False)
            raise LookupError(datatype)
        return str(own)

    def _shape(self, given: list[Any]) -> tuple[list[int], int]:
        self.demand("shape fraction", not any(isinstance(size, float) for size in given))
        shape = [int(size) for size in given]
        self.demand("shape negative", all(size >= 0 for size in shape))
        self.demand("rank", len(shape) == len(SHAPE))
        shape = [abs(size) for size in shape]
        count = math.prod(shape)
        return shape, count % 2**64 if "shape wraps" in self.faults else count

    def _json(self, datatype: str, data: Any, shape: list[int], count: int) -> list[Any]:
        values = flat(data)
        is_nested = any(isinstance(item, list) for item in data)
        if "refuses flat" in self.faults and not is_nested:
            raise Refused(400, "data shall be nested")
        self.demand("little data", len(values) >= count)
        self.demand("much data", len(values) <= count)
        if is_nested:
            if "refuses nested" in self.faults:
                raise Refused(400, "data shall be flat")
            self.demand("form", data == nested(values, shape))
            values = values[::-1] if "nested backwards" in self.faults else values
        for value in values:
            whole = isinstance(value, int) and is_integer(datatype)
            fault = "overflow" if whole else f"element {datatype}"
            self.demand(fault, not unfit(datatype, value))
        return values

    def _binary(self, datatype: str, raw: bytes, count: int) -> list[Any]:
        if datatype == BYTES:
            length = int.from_bytes(raw[:4], "little")
            self.demand("bytes end", length <= len(raw))
        else:
            size = count * len(pack({"datatype": datatype, "data": [0]}))
            self.demand("size little", len(raw) >= size)
            self.demand("size much", len(raw) <= size)
        values = unpack(datatype, raw)
        return values[::-1] if "binary backwards" in self.faults else values

    def _outputs(
        self, document: dict[str, Any], values: dict[str, tuple[list[int], Any]]
    ) -> list[tuple[dict[str, Any], bytes]]:
        every = {f"out_{name.lower()}": name for name in DATATYPES}
        wanted = document.get("outputs") or [{"name": name} for name in every]
        if "ignores outputs" in self.faults:
            wanted = [{"name": name} for name in every]
        self.demand("unknown output", all(item["name"] in every for item in wanted))
        binary = document.get("parameters", {}).get("binary_data_output", False)
        found = []
        for item in wanted:
            name = every[item["name"]]
            own = item.get("parameters", {}).get("binary_data", binary)
            is_binary = self._is_binary(own, binary)
            found.append(self._output(name, *values[name], is_binary))
        return found

    def _is_binary(self, own: bool, every: bool) -> bool:
        """Say how an output is returned: as it asks itself, but for what is broken."""
        if "always binary" in self.faults:
            return True
        if "never binary" in self.faults:
            return False
        if "ignores all" in self.faults and every:
            return False
        return every or own if "no override" in self.faults else own

    def _output(
        self, datatype: str, shape: list[int], values: list[Any], is_binary: bool
    ) -> tuple[dict[str, Any], bytes]:
        output = {"name": f"out_{datatype.lower()}", "datatype": datatype, "shape": shape}
        if not is_binary:
            empty = ["a", "b"] if datatype == BYTES else [datatype == "BOOL"] * 2
            return {**output, "data": values or empty}, b""
        raw = pack({"datatype": datatype, "data": values})
        return {**output, "parameters": {"binary_data_size": len(raw)}}, raw


def statistics(count: int) -> dict[str, Any]:
    """Return the model's statistics after so many inferences."""
    names = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    durations = {name: {"count": count, "ns": count} for name in names}
    entry = {
        "name": MODEL, "version": VERSION, "last_inference": 0, "inference_count": count,
        "execution_count": count, "inference_stats": durations, "batch_stats": [],
    }  # fmt: skip
    return {"model_stats": [entry]}


def configuration() -> dict[str, Any]:
    """Return the model's configuration."""
    sides = {
        side: [
            {"name": f"{prefix}_{name.lower()}", "data_type": f"TYPE_{name}", "dims": SHAPE}
            for name in (*FORMATS, "STRING")
        ]
        for side, prefix in (("input", "in"), ("output", "out"))
    }
    return {"name": MODEL, "platform": "test", **sides}
