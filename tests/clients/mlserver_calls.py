"""Run by an environment of its own: asks a server with what MLServer's own codecs write.

Prints one JSON line with what the same codecs read in the answers. Arguments: base URL of a server
with the models ``double``, ``echo`` and ``apart``, and HOST:PORT of its gRPC.
"""

import json
import sys
import urllib.request
import warnings
from collections.abc import Callable
from datetime import datetime
from typing import Any

import grpc
import numpy as np

warnings.simplefilter("ignore")

import pandas as pd  # noqa: E402 - after the filter
from mlserver.codecs import (  # noqa: E402
    Base64Codec,
    DatetimeCodec,
    NumpyCodec,
    NumpyRequestCodec,
    PandasCodec,
    StringCodec,
    StringRequestCodec,
)
from mlserver.grpc.converters import (  # noqa: E402
    ModelInferRequestConverter,
    ModelInferResponseConverter,
)
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub  # noqa: E402
from mlserver.types import (  # noqa: E402
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestOutput,
)

ROWS = np.array([[1.5, 2.5], [3.5, 4.5]], np.float32)
TEXTS = ["first", "zweite", "troisième"]
BLOBS = ["troisième".encode(), b"plain"]  # models of text take no bytes that are none
MOMENTS = [datetime.fromisoformat("2024-05-06T07:08:09+00:00"), datetime(2025, 1, 2)]  # noqa: DTZ001
FRAME = pd.DataFrame({"height": [1.5, 2.5], "age": [30, 40]})


Ask = Callable[[str, InferenceRequest], InferenceResponse]


def over_rest(url: str) -> Ask:
    """Return what sends a request as MLServer's documentation does, as the JSON of its model."""

    def ask(endpoint: str, request: InferenceRequest) -> InferenceResponse:
        body = request.model_dump_json().encode()
        path = f"{url}/v2/models/{endpoint}/infer"
        post = urllib.request.Request(path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(post, timeout=30) as response:
            return InferenceResponse.model_validate_json(response.read())

    return ask


def over_grpc(target: str) -> Ask:
    """Return what sends a request with MLServer's generated code."""
    stub = GRPCInferenceServiceStub(grpc.insecure_channel(target))

    def ask(endpoint: str, request: InferenceRequest) -> InferenceResponse:
        message = ModelInferRequestConverter.from_types(request, model_name=endpoint)
        return ModelInferResponseConverter.to_types(stub.ModelInfer(message, timeout=30))

    return ask


def element_wise(ask: Ask, codec: Any, values: list[Any], *, use_bytes: bool) -> list[Any]:
    """Send and ask back one tensor under a codec; returns the values that the codec reads."""
    request = InferenceRequest(
        inputs=[codec.encode_input("x", values, use_bytes=use_bytes)],
        outputs=[RequestOutput(name="y", parameters=Parameters(content_type=codec.ContentType))],
    )
    (output,) = ask("echo", request).outputs
    assert output.parameters is not None
    assert output.parameters.content_type == codec.ContentType
    return list(codec.decode_output(output))


def answers(ask: Ask, *, use_bytes: bool) -> dict[str, Any]:
    """Ask with each codec; returns what came back."""
    tensor = InferenceRequest(inputs=[NumpyCodec.encode_input("x", ROWS)])
    texts = StringRequestCodec.encode_request(TEXTS, use_bytes=use_bytes)
    frame = PandasCodec.encode_request(FRAME, use_bytes=use_bytes)
    whole = ask("double", NumpyRequestCodec.encode_request(ROWS))
    dates = element_wise(ask, DatetimeCodec, MOMENTS, use_bytes=use_bytes)
    blobs = element_wise(ask, Base64Codec, BLOBS, use_bytes=use_bytes)
    return {
        "np": NumpyCodec.decode_output(ask("double", tensor).outputs[0]).tolist(),
        "np of the request": NumpyRequestCodec.decode_response(whole).tolist(),
        "str": element_wise(ask, StringCodec, TEXTS, use_bytes=use_bytes),
        "str of the request": StringRequestCodec.decode_response(ask("echo", texts)),
        "base64": [item.hex() for item in blobs],
        "datetime": [item.isoformat() for item in dates],
        "pd": NumpyCodec.decode_output(ask("apart", frame).outputs[0]).tolist(),
    }


def main(url: str, target: str) -> None:
    """Ask over both and print what came back."""
    rest, rpc = over_rest(url), over_grpc(target)
    found = {"rest": answers(rest, use_bytes=False), "grpc": answers(rpc, use_bytes=True)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
