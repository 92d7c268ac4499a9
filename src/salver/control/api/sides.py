"""The paths of shadows and experiments."""

from typing import Annotated, Any

from fastapi import APIRouter, Path

from salver.control.api.bodies import ActionBody, CovariateBody, ExperimentBody, ShadowBody
from salver.control.rollouts.side_reports import SideReports, shown
from salver.core.rollouts import basis_points
from salver.core.sides import EXPERIMENT, SHADOW

_CREATED = 201

Name = Annotated[str, Path(max_length=128)]


def side_router(reports: SideReports) -> APIRouter:
    """Return everything below ``/endpoints/NAME`` that is about them."""
    router = APIRouter(prefix="/endpoints/{name}")
    sides = reports.sides

    @router.post("/shadow", status_code=_CREATED)
    async def start_shadow(name: Name, body: ShadowBody) -> dict[str, Any]:
        sample = basis_points(100 * body.sample)
        return shown(await sides.shadow(name, body.version, sample, body.by, force=body.force))

    @router.get("/shadow")
    async def shadow(name: Name) -> dict[str, Any]:
        return await reports.shadow(name)

    @router.post("/shadow/stop")
    async def stop_shadow(name: Name, body: ActionBody) -> dict[str, Any]:
        return shown(await sides.stop(name, SHADOW, body.by))

    @router.post("/experiment", status_code=_CREATED)
    async def start_experiment(name: Name, body: ExperimentBody) -> dict[str, Any]:
        return shown(await sides.experiment(name, body.plan(), body.by, force=body.force))

    @router.get("/experiment")
    async def experiment(name: Name) -> dict[str, Any]:
        return await reports.experiment(name)

    @router.get("/experiment/history")
    async def history(name: Name) -> list[dict[str, Any]]:
        return await reports.history(name)

    @router.post("/experiment/covariate")
    async def covariate(name: Name, body: CovariateBody) -> dict[str, Any]:
        callers = [(caller.key, caller.value) for caller in body.callers]
        return shown(await sides.covariate(name, callers, replaces=body.replace))

    @router.post("/experiment/stop")
    async def stop_experiment(name: Name, body: ActionBody) -> dict[str, Any]:
        return shown(await sides.stop(name, EXPERIMENT, body.by))

    return router
