"""Versions are numbered and immutable, the same bytes are one version, aliases point to them."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import msgspec
import pytest
from sqlalchemy import event

from salver.core.clock import ManualClock
from salver.core.errors import (
    AliasNotFound,
    InvalidName,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    VersionNotFound,
)
from salver.core.names import parse_reference
from salver.registry.catalog import Catalog
from salver.registry.database import Database
from tests.registry.helpers import manifest


@pytest.fixture
def catalog(database: Database) -> Catalog:
    """Give an empty catalog."""
    return Catalog(database, ManualClock())


def test_versions_are_numbered_without_gaps(catalog: Catalog) -> None:
    """Each new content is the next version; known content is the version it was."""
    for number, content in enumerate((b"a", b"b", b"c"), start=1):
        record, fresh = catalog.create_version("churn", manifest(content), "me", {})
        assert (record.version, fresh) == (number, True)
    record, fresh = catalog.create_version("churn", manifest(b"b"), "you", {"stage": "old"})
    assert (record.version, fresh, record.labels) == (2, False, {"stage": "old"})
    assert record.created_by == "me"


def test_names_come_in_order_and_not_endlessly(catalog: Catalog) -> None:
    """As many names as are wanted, the first ones."""
    for name in ("c", "a", "b"):
        catalog.create_version(name, manifest(b"x"), "me", {})
    assert catalog.names(10) == ["a", "b", "c"]
    assert catalog.names(2) == ["a", "b"]


def test_what_versions_need_is_told_in_portions(database: Database) -> None:
    """Of every tenant, the files and golden examples of each version, whatever its number."""
    needed = set[str]()
    for tenant in ("default", "other"):
        catalog = Catalog(database, ManualClock(), tenant)
        for model in ("a", "b"):
            for content in (b"x", b"y", f"{tenant}{model}".encode()):
                one = msgspec.structs.replace(manifest(content), golden=content.hex())
                catalog.create_version(model, one, "me", {})
                needed |= {one.golden, one.files[0].sha256}
    found, after = catalog.needed_blobs(None, 5)
    portions = 1
    while after is not None:
        more, after = catalog.needed_blobs(after, 5)
        found, portions = found | more, portions + 1
    assert (found, portions) == (needed, 3)
    assert catalog.needed_blobs() == (needed, None)


def test_models_count_apart(catalog: Catalog) -> None:
    """The same bytes under two names are version 1 of both."""
    for name in ("a", "b"):
        assert catalog.create_version(name, manifest(b"x"), "me", {})[0].version == 1
    assert [model.name for model in catalog.several(catalog.names())] == ["a", "b"]


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """Give the statements that the database is asked."""
    statements: list[str] = []

    def note(_c: object, _u: object, statement: str, *_more: object) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield statements
    event.remove(database.engine, "before_cursor_execute", note)


def filled(catalog: Catalog) -> list[str]:
    """Store models of several versions, with aliases and labels, and return their names."""
    names = ["a", "b", "c"]
    for name in names:
        for content in (b"x", b"y", b"z"):
            catalog.create_version(name, manifest(content), "me", {"of": name})
    catalog.set_alias("b", "best", 2)
    catalog.set_alias("b", "again", 1)
    return names


def test_several_models_take_few_questions(catalog: Catalog, database: Database) -> None:
    """However many versions they have; each is as it is when asked for alone."""
    names = filled(catalog)
    alone = [catalog.model(name) for name in names]
    with counted(database) as statements:
        assert catalog.several([*names, "none"]) == alone
    assert len([one for one in statements if one.startswith("SELECT")]) == 3
    assert catalog.several(["c", "a"]) == [alone[2], alone[0]]
    assert catalog.several(catalog.names()) == alone
    assert catalog.count() == 3


@pytest.mark.parametrize("text", ["a", "a:1", "b@best", "b:7", "b@none", "none", "none@best"])
def test_many_references_mean_what_each_means_alone(catalog: Catalog, text: str) -> None:
    """The same versions, and the same errors."""
    filled(catalog)
    resolve, reference = catalog.resolver(), parse_reference(text)
    try:
        expected = catalog.resolve(reference)
    except NotFound as error:
        with pytest.raises(type(error), match=re.escape(error.message)):
            resolve(reference)
    else:
        assert [resolve(reference), resolve(reference)] == [expected] * 2


def test_what_was_resolved_before_is_not_read_again(catalog: Catalog, database: Database) -> None:
    """A round asks two questions, and sees aliases that moved and versions that came."""
    filled(catalog)
    references = [parse_reference(text) for text in ("a", "b@best", "c:1")]

    def meant() -> list[int]:
        resolve = catalog.resolver()
        return [resolve(reference).version for reference in references]

    assert meant() == [3, 2, 1]
    with counted(database) as statements:
        assert meant() == [3, 2, 1]
    assert len([one for one in statements if one.startswith("SELECT")]) == 2
    catalog.set_alias("b", "best", 3)
    catalog.create_version("a", manifest(b"new"), "me", {})
    assert meant() == [4, 3, 1]


def test_references(catalog: Catalog) -> None:
    """A bare name is the newest version, :N that one, @A what the alias points to."""
    for content in (b"a", b"b"):
        catalog.create_version("churn", manifest(content), "me", {})
    catalog.set_alias("churn", "champion", 1)
    for text, version in (("churn", 2), ("churn:1", 1), ("churn@champion", 1)):
        assert catalog.resolve(parse_reference(text)).version == version
    catalog.set_alias("churn", "champion", 2)
    assert catalog.resolve(parse_reference("churn@champion")).version == 2
    assert catalog.model("churn").aliases == {"champion": 2}


def test_what_is_not_there_is_named(catalog: Catalog) -> None:
    """Unknown models, versions and aliases are told apart, and nothing half done remains."""
    with pytest.raises(ModelNotFound):
        catalog.resolve(parse_reference("churn"))
    catalog.create_version("churn", manifest(b"a"), "me", {})
    with pytest.raises(VersionNotFound, match="1 to 1"):
        catalog.resolve(parse_reference("churn:2"))
    with pytest.raises(AliasNotFound):
        catalog.resolve(parse_reference("churn@champion"))
    with pytest.raises(VersionNotFound):
        catalog.set_alias("churn", "champion", 2)
    assert catalog.model("churn").aliases == {}
    with pytest.raises(AliasNotFound):
        catalog.delete_alias("churn", "champion")


@pytest.mark.parametrize("name", ["", "../etc", "a/b", ".hidden", "a" * 129, "ä", "a b", "a\0"])
def test_bad_names_never_reach_the_database(catalog: Catalog, name: str) -> None:
    """Names are checked for models and aliases alike."""
    with pytest.raises(InvalidName):
        catalog.create_version(name, manifest(b"a"), "me", {})
    catalog.create_version("churn", manifest(b"a"), "me", {})
    with pytest.raises(InvalidName):
        catalog.set_alias("churn", name, 1)


def test_labels_are_bounded(catalog: Catalog) -> None:
    """A label's key is a name and its value is of bounded length."""
    with pytest.raises(InvalidRequest):
        catalog.create_version("churn", manifest(b"a"), "me", {"key": "v" * 2000})
    with pytest.raises(ModelNotFound):
        catalog.model("churn")


def test_many_at_once_lose_nothing(database: Database) -> None:
    """Twenty threads that register forty contents twice give forty versions without gaps."""

    def register(index: int) -> int:
        catalog = Catalog(database, ManualClock())
        content = str(index % 40).encode()
        return catalog.create_version("churn", manifest(content), "me", {})[0].version

    with ThreadPoolExecutor(20) as threads:
        versions = list(threads.map(register, range(80)))
    assert sorted(set(versions)) == list(range(1, 41))
    assert versions[:40] == versions[40:]


def test_measured_sizes_are_remembered(catalog: Catalog) -> None:
    """The newest size of a stored version is kept; one of a version that is not is passed over."""
    catalog.create_version("churn", manifest(b"a"), "me", {})
    catalog.save_sizes({"churn:1": 10, "churn:2": 20, "other:1": 30})
    assert catalog.sizes() == {"churn:1": 10}
    catalog.save_sizes({"churn:1": 11})
    assert catalog.sizes() == {"churn:1": 11}
