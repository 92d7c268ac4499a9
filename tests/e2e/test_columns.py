"""What is declared of columns at a push holds at the data port."""

import json
from pathlib import Path

from tests import models
from tests.e2e.server import Server, write_rows

GOOD, HIGH = [5.1, 3.5, 1.4, 0.2], [5.1, 99.0, 1.4, 0.2]


def declare(path: Path, document: object) -> str:
    """Write a file of declarations; JSON is YAML."""
    path.write_text(json.dumps(document))
    return str(path)


def test_declared_ranges_are_kept(server: Server, tmp_path: Path) -> None:
    """Reject refuses with the column's name, warn answers and says so, off does not look."""
    model = models.xgboost_iris("json")
    first = declare(tmp_path / "first.yaml", {"sepal_width_(cm)": {"minimum": 0, "maximum": 10}})
    server.push(model, "ranged", "--columns", first)
    good, high = write_rows(tmp_path / "good", [GOOD]), write_rows(tmp_path / "high", [HIGH])
    server.ok("deploy", "ranged", "--validation", "reject")
    server.ok("predict", "ranged", str(good))
    refused = server.salver("predict", "ranged", str(high))
    assert refused.returncode == 1
    assert b"[value_rejected]" in refused.stderr
    assert b"'sepal_width_(cm)'" in refused.stderr
    server.ok("deploy", "ranged", "--validation", "warn")
    warned = server.salver("predict", "ranged", str(high), "-o", "json")
    assert warned.returncode == 0
    assert b"warning: input 'input', column 'sepal_width_(cm)'" in warned.stderr
    assert "prediction" in json.loads(warned.stdout)[0]
    server.ok("deploy", "ranged", "--validation", "off")
    assert b"warning" not in server.salver("predict", "ranged", str(high)).stderr


def test_a_version_keeps_its_declarations(server: Server, tmp_path: Path) -> None:
    """The same bytes with other declarations are the same version, and the push says so."""
    model = str(models.xgboost_iris("ubj"))
    columns = [
        declare(tmp_path / f"{limit}.yaml", {"sepal_length_(cm)": {"maximum": limit}})
        for limit in (10, 20)
    ]
    done = [server.salver("push", model, "--name", "kept", "--columns", path) for path in columns]
    assert [one.returncode for one in done] == [0, 0]
    assert b"immutable" not in done[0].stderr
    assert b"immutable" in done[1].stderr


def test_an_unknown_column_is_named(server: Server, tmp_path: Path) -> None:
    """A slip in a name is refused with the nearest that there is, as is a file of another form."""
    model = str(models.xgboost_iris("json"))
    wrong = declare(tmp_path / "wrong.yaml", {"sepal_widht_(cm)": {"minimum": 0}})
    done = server.salver("push", model, "--name", "slip", "--columns", wrong)
    assert done.returncode == 1
    assert b"did you mean 'sepal_width_(cm)'" in done.stderr
    broken = declare(tmp_path / "broken.yaml", ["sepal"])
    done = server.salver("push", model, "--name", "slip", "--columns", broken)
    assert done.returncode == 1
    assert b"[invalid_example]" in done.stderr
