"""Run by an environment of its own: asks a server with what MLServer's own codecs write.

Prints one JSON line with what the same codecs read in the answers. Argument: base URL of a server
with the models ``double``, ``echo`` and ``apart``.
"""

import json
import sys
import urllib.request
import warnings
from datetime import datetime
from typing import Any

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


def ask(url: str, endpoint: str, request: InferenceRequest) -> InferenceResponse:
    """Send a request as MLServer's documentation does, as the JSON of its model."""
    body = request.model_dump_json().encode()
    path = f"{url}/v2/models/{endpoint}/infer"
    post = urllib.request.Request(path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(post, timeout=30) as response:
        return InferenceResponse.model_validate_json(response.read())


def element_wise(url: str, codec: Any, values: list[Any], endpoint: str) -> list[Any]:
    """Send and ask back one tensor under a codec; returns the values that the codec reads."""
    request = InferenceRequest(
        inputs=[codec.encode_input("x", values, use_bytes=False)],
        outputs=[RequestOutput(name="y", parameters=Parameters(content_type=codec.ContentType))],
    )
    (output,) = ask(url, endpoint, request).outputs
    assert output.parameters is not None
    assert output.parameters.content_type == codec.ContentType
    return list(codec.decode_output(output))


def main(url: str) -> None:
    """Ask with each codec and print what came back."""
    tensor = InferenceRequest(inputs=[NumpyCodec.encode_input("x", ROWS)])
    texts = StringRequestCodec.encode_request(TEXTS, use_bytes=False)
    frame = PandasCodec.encode_request(FRAME, use_bytes=False)
    whole = ask(url, "double", NumpyRequestCodec.encode_request(ROWS))
    found = {
        "np": NumpyCodec.decode_output(ask(url, "double", tensor).outputs[0]).tolist(),
        "np of the request": NumpyRequestCodec.decode_response(whole).tolist(),
        "str": element_wise(url, StringCodec, TEXTS, "echo"),
        "str of the request": StringRequestCodec.decode_response(ask(url, "echo", texts)),
        "base64": [item.hex() for item in element_wise(url, Base64Codec, BLOBS, "echo")],
        "datetime": [
            item.isoformat() for item in element_wise(url, DatetimeCodec, MOMENTS, "echo")
        ],
        "pd": NumpyCodec.decode_output(ask(url, "apart", frame).outputs[0]).tolist(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
