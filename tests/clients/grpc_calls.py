"""Run by an environment of its own: asks a server with unmodified gRPC clients.

Prints one JSON line. Arguments: triton or kserve (their generated code cannot be in one process),
host and port, endpoint.
"""

import asyncio
import json
import queue
import sys
import warnings
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

warnings.simplefilter("ignore")

ROWS = np.array([[1.5, 2.5], [3.5, 4.5]], np.float32)


def triton(target: str, endpoint: str) -> dict[str, object]:
    """Ask with tritonclient, with and without compression, and once for an error."""
    import tritonclient.grpc  # noqa: PLC0415 - see above

    with tritonclient.grpc.InferenceServerClient(target) as client:
        item = tritonclient.grpc.InferInput("x", list(ROWS.shape), "FP32")
        item.set_data_from_numpy(ROWS)
        answer = client.infer(endpoint, [item], request_id="from-triton")
        packed = client.infer(endpoint, [item], compression_algorithm="gzip")
        try:
            client.infer("none", [item])
        except tritonclient.grpc.InferenceServerException as error:
            status = error.status()
        return {
            **triton_calls(client, endpoint),
            "streamed": streamed(client, tritonclient.grpc, endpoint),
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(endpoint),
            "name": client.get_server_metadata().name,
            "inputs": [one.name for one in client.get_model_metadata(endpoint).inputs],
            "answer": answer.as_numpy("y").tolist(),
            "packed": packed.as_numpy("y").tolist(),
            "id": answer.get_response().id,
            "unknown": status,
        }


def triton_calls(client: Any, endpoint: str) -> dict[str, object]:
    """Ask what Triton adds to the protocol."""
    config = client.get_model_config(endpoint, as_json=True)["config"]
    statistics = client.get_inference_statistics(endpoint, as_json=True)["model_stats"]
    index = client.get_model_repository_index(as_json=True)["models"]
    return {
        "config": [config["name"], config["input"][0]["data_type"]],
        "statistics": [
            [one["name"], one["inference_stats"]["success"]["count"] != "0"] for one in statistics
        ],
        "index": [[one["name"], one["state"]] for one in index],
        "trace": client.get_trace_settings(as_json=True)["settings"]["trace_level"]["value"],
        "log_info": client.get_log_settings(as_json=True)["settings"]["log_info"],
        "regions": client.get_system_shared_memory_status(as_json=True),
    }


def streamed(client: Any, module: Any, endpoint: str) -> list[object]:
    """Ask on one stream, with an error among the requests; return what came for each id."""
    heard: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: heard.put((result, error)))
    item = module.InferInput("x", list(ROWS.shape), "FP32")
    item.set_data_from_numpy(ROWS)
    for number in range(3):
        name = "none" if number == 1 else endpoint
        client.async_stream_infer(name, [item], request_id=str(number))
    found: dict[str, object] = {}
    errors = []
    for _ in range(3):
        result, error = heard.get(timeout=30)
        if error is not None:
            errors.append("endpoint_not_found" in str(error))
        else:
            found[result.get_response().id] = result.as_numpy("y").tolist()
    client.stop_stream()
    return [sorted(found.items()), errors]


async def triton_aio(target: str, endpoint: str) -> object:
    """Ask with tritonclient's asynchronous client."""
    import tritonclient.grpc.aio  # noqa: PLC0415 - see above

    async with tritonclient.grpc.aio.InferenceServerClient(target) as client:
        item = tritonclient.grpc.aio.InferInput("x", list(ROWS.shape), "FP32")
        item.set_data_from_numpy(ROWS)
        answer = await client.infer(endpoint, [item])

        async def requests() -> AsyncIterator[dict[str, object]]:
            for number in range(2):
                yield {"model_name": endpoint, "inputs": [item], "request_id": str(number)}

        streamed = []
        async for result, error in client.stream_infer(requests()):
            streamed.append([error, result.get_response().id])
        return [answer.as_numpy("y").tolist(), streamed]


async def kserve(target: str, endpoint: str) -> dict[str, object]:
    """Ask with the kserve client, with typed and with raw contents."""
    from kserve import InferInput, InferRequest  # noqa: PLC0415 - see above
    from kserve.inference_client import InferenceGRPCClient  # noqa: PLC0415 - see above

    client = InferenceGRPCClient(url=target)
    found: dict[str, object] = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready(endpoint),
    }
    for binary in (False, True):
        item = InferInput("x", list(ROWS.shape), "FP32")
        item.set_data_from_numpy(ROWS, binary_data=binary)
        request = InferRequest(endpoint, [item], request_id="from-kserve")
        answer = await client.infer(request)
        found["raw" if binary else "typed"] = answer.outputs[0].as_numpy().tolist()
        found["id"] = answer.id
    await client.close()
    return found


async def main(name: str, target: str, endpoint: str) -> None:
    """Ask with one of the clients."""
    if name == "kserve":
        print(json.dumps(await kserve(target, endpoint)))
    else:
        found = triton(target, endpoint)
        print(json.dumps({**found, "aio": await triton_aio(target, endpoint)}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
