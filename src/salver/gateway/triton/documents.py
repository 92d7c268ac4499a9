"""What the extensions answer, whichever protocol asks."""

from typing import Any, NoReturn

from salver.core.context import DEFAULT_TENANT, Principal
from salver.core.errors import NotFound, UnsupportedOperation
from salver.gateway.oip.metadata import variant_of
from salver.gateway.oip.routes import Directory
from salver.gateway.triton.config import model_config
from salver.gateway.triton.repository import repository_index, unloaded_index
from salver.gateway.triton.statistics import Statistics
from salver.gateway.triton.switches import log_settings, trace_settings
from salver.wire.messages import EndpointPlan

_EXTENSIONS = ("classification", "model_configuration", "statistics")
_WITH_CHANGES = "model_repository"
READ_ONLY = {
    "trace": "trace settings are read-only here: nothing is traced",
    "logging": "log settings are read-only here; 'observe.log_level' is read when Salver starts",
}


def extension_names(*, changes: bool) -> tuple[str, ...]:
    """Return the names of the extensions that work.

    That of repositories consists of an index, loads and unloads; ``changes`` tells whether the
    latter are on. The index is answered in either case.
    """
    return (*_EXTENSIONS, _WITH_CHANGES) if changes else _EXTENSIONS


class Documents:
    """Makes the documents of one gateway.

    Methods that name an endpoint raise ``EndpointNotFound``, ``InvalidName``, ``Forbidden`` or
    ``QuotaExceeded``, and ``VersionNotFound`` or ``NotReady`` where they name a version.
    """

    def __init__(self, directory: Directory, statistics: Statistics, log_level: str) -> None:
        self._directory = directory
        self._statistics = statistics
        self._log_level = log_level

    def index(
        self, principal: Principal, repository: str, *, ready_only: bool
    ) -> list[dict[str, Any]]:
        """Return what the caller may ask, and for an admin what it may load.

        Raises ``UnsupportedOperation`` for a named repository.
        """
        if repository:
            raise UnsupportedOperation("there is one repository; ask for its index without a name")
        served = repository_index(
            self._visible(principal), self._directory.variant_ready, ready_only=ready_only
        )
        return served if ready_only else served + unloaded_index(self._loadable(principal))

    def config(self, principal: Principal, name: str, version: str | None) -> dict[str, Any]:
        """Return the configuration of a version; see the class."""
        endpoint = self._directory.endpoint_for(name, principal)
        return model_config(endpoint, variant_of(endpoint, version))

    def statistics(self, principal: Principal, name: str, version: str | None) -> dict[str, Any]:
        """Return the counters of an endpoint, of all if no name is given; see the class."""
        if not name:
            endpoints = self._visible(principal)
        else:
            endpoints = [self._directory.endpoint_for(name, principal)]
            if version is not None:
                variant_of(endpoints[0], version)
        entries: list[dict[str, Any]] = []
        for endpoint in endpoints:
            entries += self._statistics.document(endpoint, version)
        return {"model_stats": entries}

    def trace(self, principal: Principal, name: str) -> dict[str, Any]:
        """Return the trace settings of the server, or of an endpoint; see the class."""
        if name:
            self._directory.endpoint_for(name, principal)
        return trace_settings()

    def logging(self) -> dict[str, Any]:
        """Return the log settings."""
        return log_settings(self._log_level)

    def check_region(self, name: str) -> None:
        """Raise ``NotFound`` if a region of shared memory is named: there is none."""
        if name:
            raise NotFound(f"no shared memory region {name[:100]!r}; none can be registered")

    def refuse_region(self) -> NoReturn:
        """Raise ``UnsupportedOperation``, since no memory is shared."""
        raise UnsupportedOperation("memory is not shared with callers; send binary data")

    def refuse_text(self, principal: Principal, name: str) -> NoReturn:
        """Raise ``UnsupportedOperation``, since no endpoint generates text; see the class."""
        self._directory.endpoint_for(name, principal)
        raise UnsupportedOperation(
            f"endpoint {name!r} does not generate text; ask it with POST …/infer"
        )

    def _loadable(self, principal: Principal) -> list[str]:
        if not principal.is_admin or principal.tenant != DEFAULT_TENANT:
            return []
        allowed = principal.endpoints
        return [name for name in self._directory.unloaded() if allowed is None or name in allowed]

    def _visible(self, principal: Principal) -> list[EndpointPlan]:
        """Return the endpoints that a caller may ask, by name."""
        allowed = principal.endpoints
        found = [
            endpoint
            for endpoint in self._directory.endpoints()
            if endpoint.tenant == principal.tenant and (allowed is None or endpoint.name in allowed)
        ]
        return sorted(found, key=lambda endpoint: endpoint.name)
