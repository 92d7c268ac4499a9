"""Run by an environment of its own: sends values of every datatype with an unmodified client.

Prints one JSON line: for each datatype what came back, "same" or what went wrong. Arguments:
client, base URL, host and port of gRPC. The model of a datatype is called identity- and its name.
"""

import asyncio
import json
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

warnings.simplefilter("ignore")

DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8",
    "INT8": "i1", "INT16": "i2", "INT32": "i4", "INT64": "i8",
    "FP16": "f2", "FP32": "f4", "FP64": "f8", "BYTES": "O",
}  # fmt: skip
Ask = Callable[[str, str, Any], Awaitable[Any]]


def values(datatype: str) -> Any:
    """Return two rows with what is at the ends of a datatype."""
    dtype = np.dtype(DTYPES[datatype])
    if datatype == "BYTES":
        return np.array([["é".encode(), b""], [b"three words here", b"1"]], object)
    if datatype == "BOOL":
        return np.array([[True, False], [False, True]])
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return np.array([[limits.min, limits.max], [0, 1.5 if dtype.kind == "f" else 7]], dtype)


def verdict(sent: Any, came: Any) -> str:
    """Tell whether an array came back as it was."""
    if sent.dtype == object:
        came = np.array([[cell.encode() if isinstance(cell, str) else cell for cell in row]
                         for row in np.asarray(came, object)], object)  # fmt: skip
    is_same = came.dtype == sent.dtype and came.shape == sent.shape and (came == sent).all()
    return "same" if is_same else repr(came)[:200]


def triton(module: Any, address: str, **wanted: Any) -> Ask:
    """Return how tritonclient's http or grpc client asks."""
    client = module.InferenceServerClient(address)

    async def ask(name: str, datatype: str, array: Any) -> Any:
        item = module.InferInput("x", list(array.shape), datatype)
        item.set_data_from_numpy(array, **wanted)
        output = module.InferRequestedOutput("y", **wanted)
        return client.infer(name, [item], outputs=[output]).as_numpy("y")

    return ask


def triton_http(*, binary: bool) -> Callable[[str, str], Ask]:
    """Return tritonclient over REST."""

    def connected(url: str, _: str) -> Ask:
        import tritonclient.http  # noqa: PLC0415 - one client in a process

        return triton(tritonclient.http, url.partition("//")[2], binary_data=binary)

    return connected


def triton_grpc(_: str, target: str) -> Ask:
    """Return tritonclient over gRPC."""
    import tritonclient.grpc  # noqa: PLC0415 - one client in a process

    return triton(tritonclient.grpc, target)


def kserve(*, rest: bool, binary: bool) -> Callable[[str, str], Ask]:
    """Return the kserve client over REST or gRPC."""

    def connected(url: str, target: str) -> Ask:
        from kserve import InferInput, InferRequest, RESTConfig  # noqa: PLC0415 - see above
        from kserve.inference_client import (  # noqa: PLC0415 - see above
            InferenceGRPCClient,
            InferenceRESTClient,
        )

        async def ask(name: str, datatype: str, array: Any) -> Any:
            item = InferInput("x", list(array.shape), datatype)
            item.set_data_from_numpy(array, binary_data=binary)
            request = InferRequest(name, [item])
            if rest:
                http = InferenceRESTClient(RESTConfig(protocol="v2", retries=1, timeout=20))
                answer = await http.infer(url, request, model_name=name)
                await http.close()
            else:
                client = InferenceGRPCClient(url=target)
                answer = await client.infer(request)
                await client.close()
            return answer.outputs[0].as_numpy()

        return ask

    return connected


CLIENTS: dict[str, Callable[[str, str], Ask]] = {
    "triton-http": triton_http(binary=True),
    "triton-json": triton_http(binary=False),
    "triton-grpc": triton_grpc,
    "kserve-http": kserve(rest=True, binary=True),
    "kserve-json": kserve(rest=True, binary=False),
    "kserve-grpc": kserve(rest=False, binary=True),
    "kserve-typed": kserve(rest=False, binary=False),
}


async def main(client: str, url: str, target: str) -> None:
    """Send every datatype with one of the clients."""
    ask, found = CLIENTS[client](url, target), {}
    for datatype in DTYPES:
        sent = values(datatype)
        try:
            came = await ask(f"identity-{datatype.lower()}", datatype, sent)
            found[datatype] = verdict(sent, came)
        except Exception as error:
            found[datatype] = f"{type(error).__name__}: {error}"[:200]
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
