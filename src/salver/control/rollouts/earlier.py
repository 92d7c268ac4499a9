"""What an endpoint was before, to go back to."""

import msgspec

from salver.registry.records import EndpointSpec, PreviousState


def fixed(spec: EndpointSpec, variant: str) -> EndpointSpec:
    """Return an endpoint as it is to be gone back to: with the version that it had.

    An alias may have moved by then; only one that starts rollouts is followed further.
    """
    model, _, version = variant.rpartition(":")
    alias = spec.alias if spec.rollout is not None else None
    return msgspec.structs.replace(spec, model=model, version=int(version), alias=alias)


def is_kept(state: PreviousState | None) -> bool:
    """Tell whether an earlier version is still in memory."""
    return state is not None and state.left_s > 0
