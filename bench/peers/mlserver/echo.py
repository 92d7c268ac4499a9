"""MLServer runtime: gives its only input back, decoded and encoded as MLServer's models do it."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Echo(MLModel):
    """The identity, whatever its datatype."""

    async def load(self) -> bool:
        """There is nothing to load."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer with the tensor of this request."""
        given = payload.inputs[0]
        codec = StringCodec if given.datatype == "BYTES" else NumpyCodec
        answer = codec.encode_output("y", codec.decode_input(given))
        return InferenceResponse(model_name=self.name, outputs=[answer])
