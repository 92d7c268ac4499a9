"""The synchronous client."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from salver.client import admin, inference, rollouts, sides
from salver.client.calls import Call, Reply, Result, Steps
from salver.client.connection import Addresses, find_addresses
from salver.client.feedback import feedback, feedback_many, plane_of, read_reports
from salver.client.inference import Prediction, PredictOptions
from salver.client.inputs import Inputs
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

DEFAULT_TIMEOUT_S = 30.0


def _no_progress(_path: str, _size_bytes: int) -> None:
    """Report nothing."""


class Client:
    """Push models, deploy them and ask them.

    Without addresses it finds the server that runs from ``home`` (default ``$SALVER_HOME`` or
    ``~/.salver``). ``ca`` is a PEM file of whom to trust when the server speaks TLS (default
    ``$SALVER_CA``, else what this machine trusts). Not thread-safe for construction and close;
    calls may come from many threads.
    Every method raises the errors of ``salver.core.errors``.
    """

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
        self._http: httpx.Client | None = None
        self._addresses: Addresses | None = None

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections; the client may be used again and then opens new ones."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def predict(self, endpoint: str, inputs: Inputs, **options: Any) -> Prediction:
        """Ask an endpoint; ``options`` are the fields of ``PredictOptions``.

        ``inputs``: an array, a dictionary of arrays, a pandas frame, or rows.
        """
        return self.run(inference.predict(endpoint, inputs, PredictOptions(**options)))

    def push(
        self,
        path: str | Path,
        name: str,
        progress: admin.Progress = _no_progress,
        **options: Any,
    ) -> admin.Json:
        """Store a model file or folder as a version; ``options`` as in ``PushOptions``."""
        chosen = admin.PushOptions(**options)
        return self.run(admin.push(Path(path), name, chosen, progress))

    def deploy(self, reference: str, **options: Any) -> admin.Json:
        """Serve ``NAME[:VERSION|@ALIAS]``; returns when the endpoint answers."""
        return self.run(admin.deploy(reference, admin.DeployOptions(**options)))

    def apply(self, *paths: str | Path, **options: Any) -> admin.Json:
        """Make endpoints what files or folders say; ``options`` are those of ``admin.apply``.

        They are dry_run, prune, wait, timeout_s and force (names). Returns the changes.
        """
        return self.run(admin.apply(paths, **options))

    def feedback(
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
        self.run(feedback(self._reports_go(over), endpoint, report))

    def feedback_file(
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
        return self.run(feedback_many(self._reports_go(over), endpoint, reports))

    def start_shadow(
        self, endpoint: str, version: str | int, sample: float = 1.0, *, force: bool = False
    ) -> admin.Json:
        """Copy a share of an endpoint's requests to a version, whose answers nobody waits for."""
        return self.run(sides.start_shadow(endpoint, version, sample, force=force))

    def shadow(self, endpoint: str) -> admin.Json:
        """Return how the newest shadow's answers compare."""
        return self.run(sides.report(endpoint, "shadow"))

    def stop_shadow(self, endpoint: str) -> admin.Json:
        """End the shadow."""
        return self.run(sides.stop(endpoint, "shadow"))

    def start_experiment(
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
        return self.run(steps)

    def covariate_file(self, endpoint: str, path: str | Path) -> int:
        """Say what was known of callers before the experiment: CSV with ``key`` and ``value``.

        Returns of how many; takes the place of what was said before.
        """
        return self.run(sides.covariate(endpoint, list(sides.read_covariate(Path(path)))))

    def experiment_history(self, endpoint: str) -> list[admin.Json]:
        """Return how the newest experiment's weights have changed, newest first."""
        return self.run(sides.experiment_history(endpoint))

    def experiment(self, endpoint: str) -> admin.Json:
        """Return how the arms of the newest experiment compare."""
        return self.run(sides.report(endpoint, "experiment"))

    def stop_experiment(self, endpoint: str) -> admin.Json:
        """End the experiment; all requests go to the primary version again."""
        return self.run(sides.stop(endpoint, "experiment"))

    def undeploy(self, endpoint: str, *, force: bool = False) -> None:
        """Remove an endpoint; one that demands approvals takes ``force``."""
        self.run(admin.undeploy(endpoint, force=force))

    def set_alias(self, alias: str, version: int, *, force: bool = False) -> admin.Json:
        """Point an alias, written ``NAME@ALIAS``, to a version."""
        name = parse_reference(alias)
        steps = admin.set_alias(name.name, name.alias or "", version, force=force)
        return self.run(steps)

    def start_rollout(self, endpoint: str, to: str | int, **options: Any) -> admin.Json:
        """Begin a rollout; ``options`` are the fields of ``RolloutOptions``."""
        chosen = rollouts.RolloutOptions(**options)
        return self.run(rollouts.start(endpoint, to, chosen))

    def rollout(self, endpoint: str) -> admin.Json:
        """Return an endpoint's newest rollout."""
        return self.run(rollouts.status(endpoint))

    def rollout_history(self, endpoint: str, limit: int = 100) -> list[admin.Json]:
        """Return the newest events of an endpoint's rollouts, newest first."""
        return self.run(rollouts.history(endpoint, limit))

    def pause_rollout(self, endpoint: str, reason: str = "") -> admin.Json:
        """Let a rollout take no further step; harm still rolls it back."""
        return self.run(rollouts.say(endpoint, "rollout/pause", reason))

    def resume_rollout(self, endpoint: str, reason: str = "") -> admin.Json:
        """Let a paused rollout go on."""
        return self.run(rollouts.say(endpoint, "rollout/resume", reason))

    def promote_rollout(
        self, endpoint: str, reason: str = "", *, force: bool = False
    ) -> admin.Json:
        """Give the new version all traffic, whatever the comparison says so far.

        With ``force`` no webhooks are asked.
        """
        return self.run(rollouts.say(endpoint, "rollout/promote", reason, force=force))

    def approve_rollout(
        self, endpoint: str, comment: str = "", *, version: str | int = ""
    ) -> admin.Json:
        """Approve of the version that is rolled out, or of another for a later change."""
        return self.run(rollouts.approve(endpoint, version, comment))

    def abort_rollout(self, endpoint: str, reason: str = "") -> admin.Json:
        """Give the old version all traffic."""
        return self.run(rollouts.say(endpoint, "rollout/abort", reason))

    def set_rollout_weight(self, endpoint: str, percent: float) -> admin.Json:
        """Set the canary's weight in a manual rollout."""
        return self.run(rollouts.say(endpoint, "rollout/weight", weight=percent))

    def rollback(self, endpoint: str, reason: str = "", *, force: bool = False) -> admin.Json:
        """Go back to what an endpoint was before its last change."""
        return self.run(rollouts.say(endpoint, "rollback", reason, force=force))

    def freeze(self, endpoint: str, reason: str = "") -> admin.Json:
        """Let nothing change an endpoint."""
        return self.run(rollouts.say(endpoint, "freeze", reason))

    def unfreeze(self, endpoint: str) -> admin.Json:
        """Let an endpoint be changed again."""
        return self.run(rollouts.say(endpoint, "unfreeze"))

    def models(self) -> list[admin.Json]:
        """Return every model with its versions and aliases."""
        return self.run(admin.listing("models"))

    def endpoints(self) -> list[admin.Json]:
        """Return every endpoint and its state."""
        return self.run(admin.listing("endpoints"))

    def workers(self) -> list[admin.Json]:
        """Return every worker process."""
        return self.run(admin.listing("workers"))

    def status(self) -> admin.Json:
        """Return what the server says of itself."""
        return self.run(admin.status())

    def run(self, steps: Steps[Result]) -> Result:
        """Carry out the calls of one operation and return its result."""
        try:
            call = next(steps)
            while True:
                call = steps.send(self._carry_out(call))
        except StopIteration as stop:
            result: Result = stop.value
            return result

    def _carry_out(self, call: Call) -> Reply:
        http, addresses = self._open()
        base = base_of(call.plane, addresses)
        try:
            if isinstance(call.body, Path):
                with call.body.open("rb") as file:
                    return self._send(http, call, base, file)
            return self._send(http, call, base, call.body)
        except UNANSWERED as error:
            raise error_of(error, call, base) from error

    def _send(self, http: httpx.Client, call: Call, base: str, content: Any) -> Reply:
        response = http.request(
            call.method,
            base + call.path,
            content=content,
            headers=headers_of(call, self._open()[1]),
            timeout=call.timeout_s or self._timeout_s,
        )
        return reply_of(response)

    def _reports_go(self, over: str | None) -> str:
        _, data_url, control_url, _ = self._given
        return plane_of(self._open()[1], over, None if control_url else data_url)

    def _open(self) -> tuple[httpx.Client, Addresses]:
        if self._http is None or self._addresses is None:
            self._addresses = find_addresses(*self._given)
            verify = context_of(self._addresses, self._ca)
            self._http = httpx.Client(timeout=self._timeout_s, trust_env=False, verify=verify)
        return self._http, self._addresses
