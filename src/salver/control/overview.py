"""What runs, as the API and Prometheus see it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

import salver
from salver.control.database import DatabaseThread
from salver.control.hosts import placement
from salver.control.hub import WORKER, Hub
from salver.control.reconcile import Reconciler
from salver.control.scaling import Scaling
from salver.core.presence import announced
from salver.observe.memory import resident_bytes
from salver.observe.prometheus import render
from salver.registry.catalog import Catalog
from salver.wire.messages import Sample, Snapshot

_NOT_RUNNING: dict[str, Any] = {
    "pid": None,
    "restarts": 0,
    "state": "starting",
    "last_end": "",
    "limits": "",
}


class Overview:
    """Answers questions about processes and totals."""

    def __init__(
        self,
        home: Path,
        hub: Hub,
        reconciler: Reconciler,
        catalog: Catalog,
        database: DatabaseThread,
    ) -> None:
        self._home = home
        self._hub = hub
        self._reconciler = reconciler
        self._catalog = catalog
        self._database = database

    async def status(self) -> dict[str, Any]:
        """Return addresses, processes and how much is deployed."""
        models = await self._database(self._catalog.count)
        return {
            "version": salver.__version__,
            "home": str(self._home),
            "http_url": announced(self._home / "run" / "supervisor.json").get("http_url"),
            "control_url": announced(self._home / "run" / "control.json").get("url"),
            "plan": self._reconciler.plan.number,
            "endpoints": len(self._reconciler.desired),
            "models": models,
            "worker_limits": self._table().get("worker_limits", ""),
            "processes": self.processes(),
        }

    def processes(self) -> list[dict[str, Any]]:
        """Return every process that the supervisor runs."""
        table = self._table().get("processes", [])
        peers = {peer.hello.identity: peer for role in _ROLES for peer in self._hub.peers(role)}
        rows = []
        for entry in table:
            peer = peers.get(entry["identity"])
            snapshot = peer.snapshot if peer is not None else None
            if entry["identity"] == "control":
                size: int | None = resident_bytes()
            else:
                size = snapshot.resident_bytes if snapshot is not None else None
            state = snapshot.state if snapshot is not None else entry["state"]
            rows.append({**entry, "state": state, "resident_bytes": size})
        return rows

    def _table(self) -> dict[str, Any]:
        return _read(self._home / "run" / "processes.json")

    def workers(self) -> list[dict[str, Any]]:
        """Return every worker of the plan and what it hosts."""
        entries = {entry["identity"]: entry for entry in self.processes()}
        peers = {peer.hello.identity: peer for peer in self._hub.peers(WORKER)}
        rows = []
        scalings = self._scalings()
        for worker in self._reconciler.plan.workers:
            peer = peers.get(worker.id)
            snapshot = peer.snapshot if peer is not None else None
            entry = {**_NOT_RUNNING, **entries.get(worker.id, {})}
            rows.append(
                {
                    "id": worker.id,
                    "kind": worker.kind,
                    "pid": snapshot.pid if snapshot is not None else entry["pid"],
                    "state": snapshot.state if snapshot is not None else entry["state"],
                    "models": [load.variant for load in worker.loads],
                    "cpus": worker.limits.cpus,
                    "memory_limit_bytes": worker.limits.memory_bytes,
                    "limits_kept_by": entry["limits"],
                    "gpu": worker.limits.gpu,
                    "providers": _providers(snapshot),
                    **_memory(snapshot),
                    "restarts": entry["restarts"],
                    "last_end": entry["last_end"],
                    "wanted": [f"{name}:{own.count}" for name, own in scalings(worker.id)],
                    "why": [own.reason for _, own in scalings(worker.id)],
                }
            )
        return rows

    def _scalings(self) -> Callable[[str], list[tuple[str, Scaling]]]:
        """Return a look-up of what autoscaling decided for the endpoints of a worker."""
        observed, known = self._hub.observed(), self._reconciler.scaler.scalings
        found: dict[str, list[tuple[str, Scaling]]] = {}
        for item in self._reconciler.desired:
            scaling = known.get(item.spec.name)
            if scaling is not None and item.version is not None:
                for worker in {w for one in item.each() for w in placement(one, observed)}:
                    found.setdefault(worker, []).append((item.spec.name, scaling))
        return lambda worker: found.get(worker, [])

    async def metrics(self) -> bytes:
        """Return all processes' metrics, merged; counts are those that were written down."""
        totals, age_s = await self._reconciler.counts()
        reconciler = self._reconciler
        scaled = reconciler.scaler.gauges(reconciler.desired, self._hub.observed())
        gauges = (
            *self._hub.merger.gauges(self._hub.connected()),
            *scaled,
            Sample("salver_counts_age_seconds", (), age_s),
        )
        # Writing tens of thousands of lines takes seconds, and links must be read meanwhile.
        return await asyncio.to_thread(
            lambda: render(totals.counter_samples(), gauges, totals.histogram_samples())
        )


_ROLES = ("gateway", "worker", "supervisor")


def _memory(snapshot: Snapshot | None) -> dict[str, Any]:
    """Return what a worker occupies, may occupy (None for any), and which models that is."""
    if snapshot is None:
        return {"resident_bytes": 0, "budget_bytes": None, "in_memory": 0, "variants": []}
    budgets = [g.value for g in snapshot.gauges if g.name == "salver_memory_budget_bytes"]
    return {
        "resident_bytes": snapshot.resident_bytes,
        "budget_bytes": int(budgets[0]) if budgets else None,
        "in_memory": sum(item.state == "ready" for item in snapshot.variants),
        "variants": [
            {
                "variant": item.variant,
                "state": item.state,
                "memory_bytes": item.size_bytes,
                "instances": item.execution.instances if item.execution is not None else 1,
                "provider": item.provider,
            }
            for item in snapshot.variants
        ],
    }


def _providers(snapshot: Snapshot | None) -> list[str]:
    """Return what the models of a worker compute with."""
    variants = () if snapshot is None else snapshot.variants
    return sorted({item.provider for item in variants if item.provider})


def _read(path: Path) -> dict[str, Any]:
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return document if isinstance(document, dict) else {}
