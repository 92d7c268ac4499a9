"""All services of the front together."""

from typing import NamedTuple

from salver.core.ids import RequestIds
from salver.gateway.auth import Keys
from salver.gateway.grpc.infer import GrpcInference
from salver.gateway.grpc.services.health import HealthService
from salver.gateway.grpc.services.inference import InferenceService
from salver.gateway.grpc.services.reflection import ReflectionService
from salver.gateway.grpc.services.repository import RepositoryService
from salver.gateway.grpc.services.stream_infer import StreamService
from salver.gateway.grpc.services.table import Later, Streamings, Unaries
from salver.gateway.grpc.services.triton import TritonService
from salver.gateway.oip.routes import Directory
from salver.gateway.triton.changes import Changes
from salver.gateway.triton.documents import Documents, extension_names


class Services(NamedTuple):
    """The calls of all services, by ``SERVICE/METHOD``; ``ModelInfer`` is asked directly."""

    unaries: Unaries
    streamings: Streamings
    later: Later


def services_of(
    infer: GrpcInference,
    directory: Directory,
    documents: Documents,
    changes: Changes,
    keys: Keys,
    ids: RequestIds,
) -> Services:
    """Return the services of one gateway."""
    health = HealthService(directory)
    return Services(
        {
            **InferenceService(directory, extension_names(changes=changes.is_on)).unaries,
            **TritonService(documents).unaries,
            **health.unaries,
        },
        {
            **StreamService(infer, keys, ids).streamings,
            **health.streamings,
            **ReflectionService().streamings,
        },
        RepositoryService(changes).later,
    )
