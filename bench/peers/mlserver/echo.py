"""MLServer runtime: gives its inputs x… back as y…, decoded and encoded as MLServer's models do it."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Echo(MLModel):
    """The identity, whatever its datatype."""

    async def load(self) -> bool:
        """There is nothing to load."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer with the tensors of this request."""
        answers = []
        for given in payload.inputs:
            codec = StringCodec if given.datatype == "BYTES" else NumpyCodec
            name = given.name.replace("x", "y")
            answers.append(codec.encode_output(name, codec.decode_input(given)))
        return InferenceResponse(model_name=self.name, outputs=answers)
