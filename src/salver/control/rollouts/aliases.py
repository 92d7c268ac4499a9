"""Which alias an endpoint goes on to follow when a rollout has ended."""

from salver.core.errors import NotFound
from salver.core.names import ModelReference
from salver.registry.catalog import Catalog
from salver.registry.records import EndpointSpec
from salver.rollout.machine import Rollout


def actor_of(alias: str) -> str:
    """Return who begins a rollout that an alias's move has begun."""
    return f"alias {alias}"


def followed(spec: EndpointSpec, rollout: Rollout, catalog: Catalog) -> str | None:
    """Return the alias that an endpoint follows after a promotion. For the database's thread.

    That is one whose move began the rollout, or which means another version than was left, as
    somebody has moved it. Else it would begin a rollout back at once, which nobody asked for.
    Raises what the database cannot be read for.
    """
    model = rollout.target.rpartition(":")[0]
    if spec.alias is None or spec.rollout is None or spec.model != model:
        return None
    if rollout.created_by == actor_of(spec.alias):
        return spec.alias
    try:
        meant = catalog.resolve(ModelReference(model, alias=spec.alias))
    except NotFound:
        return None
    return None if meant.id == rollout.source else spec.alias
