"""Run by an environment of its own: asks a server with unmodified gRPC clients.

Prints one JSON line. Arguments: triton or kserve (their generated code cannot be in one process),
host and port, endpoint.
"""

import asyncio
import json
import sys
import warnings

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


async def triton_aio(target: str, endpoint: str) -> object:
    """Ask with tritonclient's asynchronous client."""
    import tritonclient.grpc.aio  # noqa: PLC0415 - see above

    async with tritonclient.grpc.aio.InferenceServerClient(target) as client:
        item = tritonclient.grpc.aio.InferInput("x", list(ROWS.shape), "FP32")
        item.set_data_from_numpy(ROWS)
        answer = await client.infer(endpoint, [item])
        return answer.as_numpy("y").tolist()


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
