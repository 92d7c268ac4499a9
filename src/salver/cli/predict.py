"""`salver predict`: ask an endpoint from the command line."""

from typing import Annotated, Any

import orjson
import typer

from salver.cli.files import read_input
from salver.cli.options import CaOption, HomeOption, KeyOption, Output, OutputOption, UrlOption
from salver.cli.output import emit, note
from salver.client.calls import DATA, Call, Steps, json_of
from salver.client.inference import Prediction, PredictOptions, metadata, predict
from salver.client.sync import Client
from salver.core.names import check_name
from salver.core.rows import parse_document, rows_to_tensors
from salver.core.signature import OUT_OF_RANGE


def command(
    endpoint: Annotated[str, typer.Argument(help="Endpoint to ask.")],
    file: Annotated[str, typer.Argument(help="JSON rows, CSV, or an OIP body; - reads stdin.")],
    home: HomeOption = None,
    url: UrlOption = None,
    api_key: KeyOption = "",
    ca: CaOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send rows to an endpoint and print its answers.

    Example: echo '[[5.1, 3.5, 1.4, 0.2]]' | salver predict iris -
    """
    check_name(endpoint, "endpoint")
    data = read_input(file)
    body = _oip_body(data)
    with Client(url, home=home, api_key=api_key, ca=ca) as client:
        if body is not None:
            answer = client.run(_raw(endpoint, data))
            emit(answer, Output.JSON if output is Output.TABLE else output)
            return
        prediction = client.run(_rows(endpoint, data, file))
    warning = prediction.parameters.get(OUT_OF_RANGE)
    if warning:
        note(f"warning: {warning}")
    emit(prediction.rows(), output)


def _oip_body(data: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) and "inputs" in document else None


def _raw(endpoint: str, data: bytes) -> Steps[dict[str, Any]]:
    headers = {"content-type": "application/json"}
    reply = yield Call("POST", DATA, f"/v2/models/{endpoint}/infer", headers, data)
    answer: dict[str, Any] = json_of(reply)
    return answer


def _rows(endpoint: str, data: bytes, file: str) -> Steps[Prediction]:
    signature = yield from metadata(f"/v2/models/{endpoint}")
    tensors = rows_to_tensors(parse_document(data, file), signature)
    return (yield from predict(endpoint, tensors, PredictOptions()))
