"""The paths of rollouts, going back, and freezes."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from salver.control.api.bodies import (
    ActionBody,
    ApproveBody,
    PromoteBody,
    RollbackBody,
    RolloutBody,
    WeightBody,
)
from salver.control.rollouts.commands import Rollouts, Start
from salver.core.rollouts import basis_points
from salver.rollout.machine import Command

_CREATED = 201
_WISHES = ("pause", "resume", "abort")

Name = Annotated[str, Path(max_length=128)]


def rollout_router(rollouts: Rollouts) -> APIRouter:
    """Return everything below ``/endpoints/NAME`` that is about rollouts."""
    router = APIRouter(prefix="/endpoints/{name}")

    @router.post("/rollout", status_code=_CREATED)
    async def start(name: Name, body: RolloutBody) -> dict[str, Any]:
        return await rollouts.start(Start(name, body.to, body.policy(), body.by, body.force))

    @router.get("/rollout")
    async def status(name: Name) -> dict[str, Any]:
        return await rollouts.status(name)

    @router.get("/rollout/history")
    async def history(
        name: Name, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[dict[str, Any]]:
        return await rollouts.history(name, limit)

    for kind in _WISHES:
        _wish_route(router, rollouts, kind)

    _gate_routes(router, rollouts)

    @router.post("/rollback")
    async def rollback(name: Name, body: RollbackBody) -> dict[str, Any]:
        return await rollouts.rollback(name, body.by, body.reason, force=body.force)

    @router.post("/freeze")
    async def freeze(name: Name, body: ActionBody) -> dict[str, Any]:
        return await rollouts.freeze(name, body.reason, body.by)

    @router.post("/unfreeze")
    async def unfreeze(name: Name, body: ActionBody) -> dict[str, Any]:
        return await rollouts.unfreeze(name, body.by)

    return router


def _wish_route(router: APIRouter, rollouts: Rollouts, kind: str) -> None:
    @router.post(f"/rollout/{kind}", name=kind)
    async def wish(name: Name, body: ActionBody) -> dict[str, Any]:
        return await rollouts.say(name, Command(kind, body.by, body.reason))


def _gate_routes(router: APIRouter, rollouts: Rollouts) -> None:
    @router.post("/rollout/weight")
    async def weight(name: Name, body: WeightBody) -> dict[str, Any]:
        points = basis_points(body.weight)
        wish = Command("weight", body.by, body.reason, points, force=body.force)
        return await rollouts.say(name, wish)

    @router.post("/rollout/promote")
    async def promote(name: Name, body: PromoteBody) -> dict[str, Any]:
        wish = Command("promote", body.by, body.reason, force=body.force)
        return await rollouts.say(name, wish)

    @router.post("/rollout/approve")
    async def approve(name: Name, body: ApproveBody) -> dict[str, Any]:
        return await rollouts.approve(name, body.version, body.by, body.comment)
