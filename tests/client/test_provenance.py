"""What a push says of where a model comes from."""

import subprocess
from pathlib import Path

from salver.client.admin import provenance


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return what it prints."""
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@localhost")
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_the_commit_of_the_models_folder(tmp_path: Path) -> None:
    """A model in a git repository says its commit, and whether there were changes beside it."""
    model = tmp_path / "model.onnx"
    model.write_bytes(b"1")
    outside = provenance(model)
    assert outside["user"]
    assert "git_commit" not in outside
    git(tmp_path, "init", "--quiet")
    assert "git_commit" not in provenance(model)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "a model")
    commit = git(tmp_path, "rev-parse", "HEAD")
    for path in (model, tmp_path):
        facts = provenance(path)
        assert (facts["git_commit"], facts["git_dirty"]) == (commit, "false")
    model.write_bytes(b"2")
    facts = provenance(model)
    assert (facts["git_commit"], facts["git_dirty"]) == (commit, "true")
