"""A signature that the author of code wrote down beside it."""

from pathlib import Path

import msgspec

from salver.core.datatypes import DATATYPES
from salver.core.errors import InvalidArtifact
from salver.core.signature import Signature

SIGNATURE_FILE = "signature.json"
_MAX_BYTES = 1024 * 1024


def declared_signature(folder: Path) -> Signature | None:
    """Return the signature in ``signature.json``, or None when there is no such file.

    ``{"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": []}``; outputs
    left empty are learnt from the example. Raises ``InvalidArtifact``.
    """
    path = folder / SIGNATURE_FILE
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise InvalidArtifact(f"{SIGNATURE_FILE} is over {_MAX_BYTES} bytes")
    try:
        signature = msgspec.json.decode(path.read_bytes(), type=Signature)
    except msgspec.MsgspecError as error:
        raise InvalidArtifact(f"{SIGNATURE_FILE} is no signature: {error}") from error
    if not signature.inputs:
        raise InvalidArtifact(f"{SIGNATURE_FILE} declares no inputs")
    for spec in (*signature.inputs, *signature.outputs):
        if spec.datatype not in DATATYPES:
            raise InvalidArtifact(
                f"{SIGNATURE_FILE}: {spec.name!r} is {spec.datatype!r}; the datatypes are "
                f"{', '.join(DATATYPES)}"
            )
    return signature
