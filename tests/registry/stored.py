"""What a registry holds at a moment, without changing it."""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path


def stored_alias(home: Path, model: str, alias: str) -> tuple[int | None, bool]:
    """Return where an alias leads, and whether that version exists; None for no alias.

    Looks at a copy of the database and its journal, so that whoever opens the real one next has to
    recover it as it was left. Nobody may write meanwhile.
    """
    with tempfile.TemporaryDirectory() as folder:
        for path in home.glob("salver.db*"):
            shutil.copy(path, folder)
        with closing(sqlite3.connect(Path(folder, "salver.db"))) as connection:
            row = connection.execute(
                "SELECT a.version, v.version FROM aliases a LEFT JOIN versions v"
                " ON v.tenant = a.tenant AND v.model = a.model AND v.version = a.version"
                " WHERE a.model = ? AND a.alias = ?",
                (model, alias),
            ).fetchone()
    return (None, True) if row is None else (row[0], row[1] is not None)
