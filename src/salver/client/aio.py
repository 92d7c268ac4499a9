"""The asynchronous client: the same operations as the synchronous one, awaited."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import httpx

from salver.client import admin, inference, rollouts, sides
from salver.client.calls import Call, Reply, Result, Steps
from salver.client.connection import Addresses, find_addresses
from salver.client.feedback import feedback, feedback_many, plane_of, read_reports
from salver.client.inference import Prediction, PredictOptions
from salver.client.inputs import Inputs
from salver.client.sync import DEFAULT_TIMEOUT_S, _no_progress
from salver.client.transport import (
    UNANSWERED,
    Trust,
    base_of,
    context_of,
    error_of,
    headers_of,
    reply_of,
)
from salver.core.feedback import DEFAULT_METRIC, Reported
from salver.core.names import parse_reference

_READ_BYTES = 1024 * 1024


class AsyncClient:
    """``Client`` for asyncio; one instance serves many tasks of one event loop."""

    def __init__(
        self,
        data_url: str | None = None,
        *,
        control_url: str | None = None,
        api_key: str = "",
        home: Path | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        ca: Trust = None,
    ) -> None:
        self._given = (home, data_url, control_url, api_key)
        self._timeout_s = timeout_s
        self._ca = ca
        self._http: httpx.AsyncClient | None = None
        self._addresses: Addresses | None = None

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """Close the connections; the client may be used again and then opens new ones."""
        # First of all: who asks meanwhile, or after a close that was cancelled, opens new ones.
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def predict(self, endpoint: str, inputs: Inputs, **options: Any) -> Prediction:
        """Ask an endpoint; ``options`` are the fields of ``PredictOptions``."""
        return await self.run(inference.predict(endpoint, inputs, PredictOptions(**options)))

    async def push(
        self,
        path: str | Path,
        name: str,
        progress: admin.Progress = _no_progress,
        **options: Any,
    ) -> admin.Json:
        """Store a model file or folder as a version; ``options`` as in ``PushOptions``."""
        chosen = admin.PushOptions(**options)
        return await self.run(admin.push(Path(path), name, chosen, progress))

    async def deploy(self, reference: str, **options: Any) -> admin.Json:
        """Serve ``NAME[:VERSION|@ALIAS]``; returns when the endpoint answers."""
        return await self.run(admin.deploy(reference, admin.DeployOptions(**options)))

    async def apply(self, *paths: str | Path, **options: Any) -> admin.Json:
        """Make endpoints what files or folders say; ``options`` are those of ``admin.apply``.

        They are dry_run, prune, wait, timeout_s and force (names). Returns the changes.
        """
        return await self.run(admin.apply(paths, **options))

    async def feedback(
        self,
        endpoint: str,
        request_id: str,
        value: float,
        metric: str = DEFAULT_METRIC,
        *,
        over: str | None = None,
    ) -> None:
        """Report what became of an answer, by the ``request_id`` that came with it.

        ``over`` is ``data`` (with the API key) or ``control``; by default the control API if its
        token is at hand and ``data_url`` was not all that was given.
        """
        report = Reported(request_id, value, metric)
        await self.run(feedback(self._reports_go(over), endpoint, report))

    async def feedback_file(
        self,
        endpoint: str,
        path: str | Path,
        metric: str = DEFAULT_METRIC,
        *,
        over: str | None = None,
    ) -> admin.Json:
        """Report the outcomes in a file of JSON lines or CSV; good lines count in any case.

        Returns how many were taken and repeated, and the problems by line. ``over`` as above.
        """
        reports = read_reports(Path(path), metric)
        return await self.run(feedback_many(self._reports_go(over), endpoint, reports))

    async def start_shadow(
        self, endpoint: str, version: str | int, sample: float = 1.0, *, force: bool = False
    ) -> admin.Json:
        """Copy a share of an endpoint's requests to a version, whose answers nobody waits for."""
        return await self.run(sides.start_shadow(endpoint, version, sample, force=force))

    async def shadow(self, endpoint: str) -> admin.Json:
        """Return how the newest shadow's answers compare."""
        return await self.run(sides.report(endpoint, "shadow"))

    async def stop_shadow(self, endpoint: str) -> admin.Json:
        """End the shadow."""
        return await self.run(sides.stop(endpoint, "shadow"))

    async def start_experiment(
        self,
        endpoint: str,
        arms: Sequence[str | int],
        split: Sequence[float] | str,
        metric: str = DEFAULT_METRIC,
        *,
        force: bool = False,
        **options: Any,
    ) -> admin.Json:
        """Split an endpoint's requests between versions, in percent or by success ("thompson").

        ``options``: ``minimum`` and ``maximum`` of outcomes; by success also ``floor`` (percent of
        each arm) and ``prefer`` (more or less).
        """
        steps = sides.start_experiment(endpoint, arms, split, metric, force=force, **options)
        return await self.run(steps)

    async def covariate_file(self, endpoint: str, path: str | Path) -> int:
        """Say what was known of callers before the experiment: CSV with ``key`` and ``value``.

        Returns of how many; takes the place of what was said before.
        """
        return await self.run(sides.covariate(endpoint, list(sides.read_covariate(Path(path)))))

    async def experiment_history(self, endpoint: str) -> list[admin.Json]:
        """Return how the newest experiment's weights have changed, newest first."""
        return await self.run(sides.experiment_history(endpoint))

    async def experiment(self, endpoint: str) -> admin.Json:
        """Return how the arms of the newest experiment compare."""
        return await self.run(sides.report(endpoint, "experiment"))

    async def stop_experiment(self, endpoint: str) -> admin.Json:
        """End the experiment; all requests go to the primary version again."""
        return await self.run(sides.stop(endpoint, "experiment"))

    async def undeploy(self, endpoint: str, *, force: bool = False) -> None:
        """Remove an endpoint; one that demands approvals takes ``force``."""
        await self.run(admin.undeploy(endpoint, force=force))

    async def set_alias(self, alias: str, version: int, *, force: bool = False) -> admin.Json:
        """Point an alias, written ``NAME@ALIAS``, to a version."""
        name = parse_reference(alias)
        steps = admin.set_alias(name.name, name.alias or "", version, force=force)
        return await self.run(steps)

    async def start_rollout(self, endpoint: str, to: str | int, **options: Any) -> admin.Json:
        """Begin a rollout; ``options`` are the fields of ``RolloutOptions``."""
        chosen = rollouts.RolloutOptions(**options)
        return await self.run(rollouts.start(endpoint, to, chosen))

    async def rollout(self, endpoint: str) -> admin.Json:
        """Return an endpoint's newest rollout."""
        return await self.run(rollouts.status(endpoint))

    async def rollout_history(self, endpoint: str, limit: int = 100) -> list[admin.Json]:
        """Return the newest events of an endpoint's rollouts, newest first."""
        return await self.run(rollouts.history(endpoint, limit))

    async def pause_rollout(self, endpoint: str, reason: str = "") -> admin.Json:
        """Let a rollout take no further step; harm still rolls it back."""
        return await self.run(rollouts.say(endpoint, "rollout/pause", reason))

    async def resume_rollout(self, endpoint: str, reason: str = "") -> admin.Json:
        """Let a paused rollout go on."""
        return await self.run(rollouts.say(endpoint, "rollout/resume", reason))

    async def promote_rollout(
        self, endpoint: str, reason: str = "", *, force: bool = False
    ) -> admin.Json:
        """Give the new version all traffic, whatever the comparison says so far.

        With ``force`` no webhooks are asked.
        """
        return await self.run(rollouts.say(endpoint, "rollout/promote", reason, force=force))

    async def approve_rollout(
        self, endpoint: str, comment: str = "", *, version: str | int = ""
    ) -> admin.Json:
        """Approve of the version that is rolled out, or of another for a later change."""
        return await self.run(rollouts.approve(endpoint, version, comment))

    async def abort_rollout(self, endpoint: str, reason: str = "") -> admin.Json:
        """Give the old version all traffic."""
        return await self.run(rollouts.say(endpoint, "rollout/abort", reason))

    async def set_rollout_weight(self, endpoint: str, percent: float) -> admin.Json:
        """Set the canary's weight in a manual rollout."""
        return await self.run(rollouts.say(endpoint, "rollout/weight", weight=percent))

    async def rollback(self, endpoint: str, reason: str = "", *, force: bool = False) -> admin.Json:
        """Go back to what an endpoint was before its last change."""
        return await self.run(rollouts.say(endpoint, "rollback", reason, force=force))

    async def freeze(self, endpoint: str, reason: str = "") -> admin.Json:
        """Let nothing change an endpoint."""
        return await self.run(rollouts.say(endpoint, "freeze", reason))

    async def unfreeze(self, endpoint: str) -> admin.Json:
        """Let an endpoint be changed again."""
        return await self.run(rollouts.say(endpoint, "unfreeze"))

    async def models(self) -> list[admin.Json]:
        """Return every model with its versions and aliases."""
        return await self.run(admin.listing("models"))

    async def endpoints(self) -> list[admin.Json]:
        """Return every endpoint and its state."""
        return await self.run(admin.listing("endpoints"))

    async def workers(self) -> list[admin.Json]:
        """Return every worker process."""
        return await self.run(admin.listing("workers"))

    async def status(self) -> admin.Json:
        """Return what the server says of itself."""
        return await self.run(admin.status())

    async def run(self, steps: Steps[Result]) -> Result:
        """Carry out the calls of one operation and return its result."""
        try:
            call = next(steps)
            while True:
                call = steps.send(await self._carry_out(call))
        except StopIteration as stop:
            result: Result = stop.value
            return result

    async def _carry_out(self, call: Call) -> Reply:
        http, addresses = self._open()
        base = base_of(call.plane, addresses)
        content = _chunks(call.body) if isinstance(call.body, Path) else call.body
        try:
            response = await http.request(
                call.method,
                base + call.path,
                content=content,
                headers=headers_of(call, addresses),
                timeout=call.timeout_s or self._timeout_s,
            )
        except UNANSWERED as error:
            raise error_of(error, call, base) from error
        return reply_of(response)

    def _reports_go(self, over: str | None) -> str:
        _, data_url, control_url, _ = self._given
        return plane_of(self._open()[1], over, None if control_url else data_url)

    def _open(self) -> tuple[httpx.AsyncClient, Addresses]:
        if self._http is None or self._addresses is None:
            self._addresses = find_addresses(*self._given)
            verify = context_of(self._addresses, self._ca)
            self._http = httpx.AsyncClient(timeout=self._timeout_s, trust_env=False, verify=verify)
        return self._http, self._addresses


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while chunk := await file.read(_READ_BYTES):
            yield chunk
