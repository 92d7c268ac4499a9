"""Models, versions and aliases in SQL.

Versions are immutable and numbered per model from 1 without gaps; the same bytes give the same
version. An alias points to a version that is stored; the database itself refuses any other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from salver.artifact.manifest import Manifest, from_json, to_json
from salver.core.clock import Clock
from salver.core.context import DEFAULT_TENANT
from salver.core.errors import AliasNotFound, InvalidRequest, ModelNotFound, VersionNotFound
from salver.core.names import ModelReference, check_name
from salver.registry.database import Database, First, nothing
from salver.registry.records import ModelRecord, VersionRecord
from salver.registry.schema import aliases, labels, measured_sizes, models, versions

_MILLISECOND_NS = 1_000_000
_MAX_LABEL = 1024
_PORTION = 100


class VersionKey(NamedTuple):
    """What tells one version from all others in the registry."""

    tenant: str
    model: str
    version: int


class Catalog:
    """The registry's names. Not thread-safe; control calls it from one thread."""

    def __init__(self, database: Database, clock: Clock, tenant: str = DEFAULT_TENANT) -> None:
        self._database = database
        self._clock = clock
        self._tenant = tenant
        self._resolved: dict[tuple[str, int], VersionRecord] = {}

    def reach(self) -> None:
        """Raise ``ControlUnavailable`` while the database does not answer."""
        with self._database.read():
            pass

    def create_version(
        self, model: str, manifest: Manifest, created_by: str, marks: Mapping[str, str]
    ) -> tuple[VersionRecord, bool]:
        """Store a version; returns it and whether it is new.

        ``marks`` are labels and are added to a version that exists already.
        """
        check_name(model, "model")
        _check_labels(marks)
        digest = manifest.digest
        with self._database.write() as connection:
            known = self._find_digest(connection, model, digest)
            number = known or self._insert(connection, model, manifest, created_by)
            for key, value in marks.items():
                self._label(connection, model, number, key, value)
            record = self._version(connection, model, number)
        # A database that went back to before may give the number of a version once more.
        self._resolved.pop((model, number), None)
        return record, known is None

    def needed_blobs(
        self, after: VersionKey | None = None, most: int = _PORTION
    ) -> tuple[set[str], VersionKey | None]:
        """Return the blobs that the next ``most`` versions name, of every tenant, and the last.

        None for the last says that none is left.
        """
        table, key = versions.c, (versions.c.tenant, versions.c.model, versions.c.version)
        query = sa.select(*key, table.manifest).order_by(*key).limit(most)
        if after is not None:
            query = query.where(sa.tuple_(*key) > sa.tuple_(*after))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        found = {blob for row in rows for blob in from_json(row.manifest.encode()).blobs}
        return found, VersionKey(*rows[-1][:3]) if len(rows) == most else None

    def set_alias(self, model: str, alias: str, version: int, first: First = nothing) -> None:
        """Point an alias to a version; raises ``VersionNotFound``.

        ``first`` is done in the same transaction; when it raises, nothing is changed.
        """
        check_name(alias, "alias")
        with self._database.write() as connection:
            first(connection)
            self._version(connection, model, version)
            where = (
                (aliases.c.tenant == self._tenant)
                & (aliases.c.model == model)
                & (aliases.c.alias == alias)
            )
            values = {"version": version, "moved_unix_ms": self._now_ms()}
            moved = connection.execute(sa.update(aliases).where(where).values(values))
            if moved.rowcount == 0:
                key = {"tenant": self._tenant, "model": model, "alias": alias}
                connection.execute(sa.insert(aliases).values({**key, **values}))

    def delete_alias(self, model: str, alias: str, first: First = nothing) -> None:
        """Remove an alias; raises ``AliasNotFound``. ``first`` is as in ``set_alias``."""
        with self._database.write() as connection:
            first(connection)
            gone = connection.execute(
                sa.delete(aliases).where(
                    aliases.c.tenant == self._tenant,
                    aliases.c.model == model,
                    aliases.c.alias == alias,
                )
            )
            if gone.rowcount == 0:
                raise AliasNotFound(f"model {model!r} has no alias {alias!r}")

    def resolve(self, reference: ModelReference) -> VersionRecord:
        """Return the version a reference means now; a bare name means the newest.

        Raises ``ModelNotFound``, ``VersionNotFound`` or ``AliasNotFound``.
        """
        with self._database.read() as connection:
            newest = self._newest(connection, reference.name)
            number = reference.version
            if reference.alias is not None:
                number = self._alias(connection, reference.name, reference.alias)
            return self._version(connection, reference.name, number or newest)

    def resolver(self) -> Callable[[ModelReference], VersionRecord]:
        """Return what does as ``resolve`` for many, as of now, with two queries for all of them.

        Versions are immutable: what the one before this resolved is not read again. Labels, which
        may be added, are as they were then.
        """
        with self._database.read() as connection:
            newest = {
                row.name: row.newest_version
                for row in connection.execute(
                    sa.select(models.c.name, models.c.newest_version).filter_by(tenant=self._tenant)
                )
            }
            pointed = {
                (row.model, row.alias): row.version
                for row in connection.execute(sa.select(aliases).filter_by(tenant=self._tenant))
            }
        before, self._resolved = self._resolved, {}

        def resolve(reference: ModelReference) -> VersionRecord:
            name, number = reference.name, reference.version or newest.get(reference.name, 0)
            if reference.alias is not None:
                number = pointed.get((name, reference.alias), 0)
            key = (name, number)
            record = self._resolved.get(key) or before.get(key) or self.resolve(reference)
            self._resolved[record.model, record.version] = record
            return record

        return resolve

    def model(self, name: str) -> ModelRecord:
        """Return a model with its versions and aliases; raises ``ModelNotFound``."""
        found = self.several([name])
        if not found:
            raise _no_model(name)
        return found[0]

    def several(self, names: Sequence[str]) -> list[ModelRecord]:
        """Return these models, in this order, with three queries; names of none are left out."""
        found: dict[str, list[VersionRecord]] = {}
        marks: dict[tuple[str, int], dict[str, str]] = {}
        pointed: dict[str, dict[str, int]] = {}
        with self._database.read() as connection:
            for row in connection.execute(self._of(labels, names)):
                marks.setdefault((row.model, row.version), {})[row.key] = row.value
            for row in connection.execute(self._of(aliases, names).order_by(aliases.c.alias)):
                pointed.setdefault(row.model, {})[row.alias] = row.version
            for row in connection.execute(self._of(versions, names).order_by(versions.c.version)):
                record = _record(row, marks.get((row.model, row.version), {}))
                found.setdefault(row.model, []).append(record)
        return [
            ModelRecord(name, tuple(found[name]), pointed.get(name, {}))
            for name in names
            if name in found
        ]

    def count(self) -> int:
        """Return how many models there are."""
        query = sa.select(sa.func.count()).select_from(models)
        with self._database.read() as connection:
            return int(connection.execute(query.filter_by(tenant=self._tenant)).scalar_one())

    def sizes(self) -> dict[str, int]:
        """Return what versions took in memory, in bytes, by ``MODEL:VERSION``; a hint."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(measured_sizes).where(measured_sizes.c.tenant == self._tenant)
            ).all()
        return {f"{row.model}:{row.version}": row.size_bytes for row in rows}

    def save_sizes(self, sizes: Mapping[str, int]) -> None:
        """Remember what versions took in memory; those that are not stored are passed over."""
        with self._database.write() as connection:
            for variant, size_bytes in sizes.items():
                model, _, version = variant.rpartition(":")
                key = {"tenant": self._tenant, "model": model, "version": int(version)}
                stored = sa.select(versions.c.version).filter_by(**key)
                if connection.scalar(stored) is not None:
                    connection.execute(sa.delete(measured_sizes).filter_by(**key))
                    row = {**key, "size_bytes": size_bytes}
                    connection.execute(sa.insert(measured_sizes).values(row))

    def names(self, limit: int | None = None) -> list[str]:
        """Return the names of the first models, or of all, in order."""
        with self._database.read() as connection:
            return list(
                connection.scalars(
                    sa.select(models.c.name)
                    .where(models.c.tenant == self._tenant)
                    .order_by(models.c.name)
                    .limit(limit)
                )
            )

    def _insert(
        self, connection: sa.Connection, model: str, manifest: Manifest, created_by: str
    ) -> int:
        where = (models.c.tenant == self._tenant) & (models.c.name == model)
        newest = connection.scalar(sa.select(models.c.newest_version).where(where))
        number = (newest or 0) + 1
        now_ms = self._now_ms()
        if newest is None:
            connection.execute(
                sa.insert(models).values(
                    tenant=self._tenant, name=model, created_unix_ms=now_ms, newest_version=number
                )
            )
        else:
            connection.execute(sa.update(models).where(where).values(newest_version=number))
        connection.execute(
            sa.insert(versions).values(
                tenant=self._tenant,
                model=model,
                version=number,
                digest=manifest.digest,
                manifest=to_json(manifest).decode(),
                created_unix_ms=now_ms,
                created_by=created_by,
            )
        )
        return number

    def _find_digest(self, connection: sa.Connection, model: str, digest: str) -> int | None:
        return connection.scalar(
            sa.select(versions.c.version).where(
                versions.c.tenant == self._tenant,
                versions.c.model == model,
                versions.c.digest == digest,
            )
        )

    def _label(
        self, connection: sa.Connection, model: str, version: int, key: str, value: str
    ) -> None:
        identity = {"tenant": self._tenant, "model": model, "version": version, "key": key}
        connection.execute(
            sa.delete(labels).where(*[labels.c[name] == part for name, part in identity.items()])
        )
        connection.execute(sa.insert(labels).values({**identity, "value": value}))

    def _newest(self, connection: sa.Connection, model: str) -> int:
        newest: int | None = connection.scalar(
            sa.select(models.c.newest_version).where(
                models.c.tenant == self._tenant, models.c.name == model
            )
        )
        if newest is None:
            raise _no_model(model)
        return newest

    def _alias(self, connection: sa.Connection, model: str, alias: str) -> int:
        number: int | None = connection.scalar(
            sa.select(aliases.c.version).where(
                aliases.c.tenant == self._tenant,
                aliases.c.model == model,
                aliases.c.alias == alias,
            )
        )
        if number is None:
            raise AliasNotFound(
                f"model {model!r} has no alias {alias!r}; set it with 'salver alias "
                f"{model}@{alias} VERSION'"
            )
        return number

    def _version(self, connection: sa.Connection, model: str, number: int) -> VersionRecord:
        row = connection.execute(
            sa.select(versions).where(
                versions.c.tenant == self._tenant,
                versions.c.model == model,
                versions.c.version == number,
            )
        ).one_or_none()
        if row is None:
            newest = self._newest(connection, model)
            raise VersionNotFound(f"model {model!r} has no version {number}; it has 1 to {newest}")
        marks = connection.execute(
            sa.select(labels.c.key, labels.c.value).where(
                labels.c.tenant == self._tenant,
                labels.c.model == model,
                labels.c.version == number,
            )
        )
        return _record(row, {mark.key: mark.value for mark in marks})

    def _of(self, table: sa.Table, names: Sequence[str]) -> sa.Select[Any]:
        return sa.select(table).where(table.c.tenant == self._tenant, table.c.model.in_(names))

    def _now_ms(self) -> int:
        return self._clock.unix_ns() // _MILLISECOND_NS


def _no_model(name: str) -> ModelNotFound:
    return ModelNotFound(f"no model {name!r}; push it first, or see 'salver get models'")


def _record(row: sa.Row[Any], marks: dict[str, str]) -> VersionRecord:
    return VersionRecord(
        row.model,
        row.version,
        row.digest,
        from_json(row.manifest.encode()),
        row.created_unix_ms,
        row.created_by,
        marks,
    )


def _check_labels(marks: Mapping[str, str]) -> None:
    for key, value in marks.items():
        check_name(key, "label")
        if len(value) > _MAX_LABEL:
            raise InvalidRequest(f"label {key!r} is longer than {_MAX_LABEL} characters")
