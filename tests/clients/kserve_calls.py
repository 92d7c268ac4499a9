"""Run by an environment of its own: asks a server with the unmodified kserve client.

Prints one JSON line. Arguments: base URL, endpoint.
"""

import asyncio
import json
import sys
import warnings

import numpy as np

warnings.simplefilter("ignore")

from kserve import InferInput, InferRequest, RESTConfig  # noqa: E402 - after the filter
from kserve.inference_client import InferenceRESTClient  # noqa: E402


async def main(url: str, endpoint: str) -> None:
    """Ask with both of the client's protocols, and once with binary data."""
    found = await ask_v2(url, endpoint) | {"v1": await ask_v1(url, endpoint)}
    print(json.dumps(found))


async def ask_v2(url: str, endpoint: str) -> dict[str, object]:
    """Ask for liveness, readiness and two predictions, one of them binary."""
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=1, timeout=20))
    rows = np.array([[1.5, 2.5], [3.5, 4.5]], np.float32)
    found: dict[str, object] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, endpoint),
    }
    for binary in (False, True):
        item = InferInput("x", list(rows.shape), "FP32")
        item.set_data_from_numpy(rows, binary_data=binary)
        request = InferRequest(endpoint, [item], request_id="from-kserve")
        answer = await client.infer(url, request, model_name=endpoint)
        found["binary" if binary else "json"] = answer.outputs[0].as_numpy().tolist()
        found["id"] = answer.id
    await client.close()
    return found


async def ask_v1(url: str, endpoint: str) -> dict[str, object]:
    """Ask for liveness, readiness and predictions in rows and in columns."""
    client = InferenceRESTClient(RESTConfig(protocol="v1", retries=1, timeout=20))
    rows = [[1.5, 2.5], [3.5, 4.5]]
    found: dict[str, object] = {
        "live": await client.is_server_live(url),
        "model_ready": await client.is_model_ready(url, endpoint),
        "rows": await client.infer(url, {"instances": rows}, model_name=endpoint),
        "columns": await client.infer(url, {"inputs": rows}, model_name=endpoint),
    }
    await client.close()
    return found


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
