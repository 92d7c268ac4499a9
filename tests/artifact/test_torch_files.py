"""PyTorch archives are refused for what they could do, before PyTorch sees them."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from salver.artifact.detect import detect_runtime
from salver.artifact.validate.base import validate
from salver.core.errors import InvalidArtifact, LoadFailed, PickleRefused, SalverError
from salver.runtimes.base import RuntimeOptions
from salver.runtimes.table import create_batch
from tests import torch_models
from tests.artifact.torch_attacks import EXPORTED, SAVING, SCRIPTS, Evil, rewritten, saved, source

BY_TORCH = """
import sys, torch
for path in sys.argv[1:]:
    try:
        if path.endswith("2"):
            torch.export.load(path).module()
        else:
            torch.jit.load(path)(torch.ones(2, 4))
    except Exception as error:
        print(path, type(error), error)
"""
REAL = (
    "a pickle among the sample inputs",
    "a pickle among the weights",
    "a size that is code",
    "a value named metadata",
    "a key that is code",
    "writing a file",
    "writing a file from a folder in capitals",
    "a comment of types that PyTorch reads",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder for the artifact alone."""
    path = tmp_path / "artifact"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", EXPORTED)
def test_programs_that_do_more_than_compute_are_refused(
    name: str, folder: Path, tmp_path: Path
) -> None:
    """Nothing of them was executed, and the error says what is wrong."""
    change, cause = EXPORTED[name]
    rewritten(torch_models.iris_exported(), folder / "model.pt2", change, tmp_path / "made")
    with pytest.raises(InvalidArtifact, match=cause):
        validate("torch", folder)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_that_reach_out_are_refused(name: str, folder: Path, tmp_path: Path) -> None:
    """TorchScript may compute, and neither open files nor call others."""
    change, cause = SCRIPTS[name]
    rewritten(torch_models.iris_script(), folder / "model.pt", change, tmp_path / "made")
    with pytest.raises(InvalidArtifact, match=cause):
        validate("torch", folder)


def test_these_attacks_are_real(tmp_path: Path) -> None:
    """PyTorch itself does what the files say, which the tests above would miss otherwise."""
    paths = []
    for number, name in enumerate(REAL):
        exported = name in EXPORTED
        change, _ = (EXPORTED if exported else SCRIPTS)[name]
        origin = torch_models.iris_exported() if exported else torch_models.iris_script()
        path = tmp_path / (f"{number}.pt2" if exported else f"{number}.pt")
        paths.append(str(rewritten(origin, path, change, tmp_path / f"made-{number}")))
    done = subprocess.run(
        [sys.executable, "-c", BY_TORCH, *paths], capture_output=True, text=True, check=True
    )
    idle = [name for i, name in enumerate(REAL) if not (tmp_path / f"made-{i}").exists()]
    assert idle == [], done.stdout


def test_no_pickle_is_opened_whatever_the_examination_missed(folder: Path, tmp_path: Path) -> None:
    """A worker that gets such a file opens its tensors with weights_only, and says no."""
    made = tmp_path / "made"
    change, _ = EXPORTED["a pickle among the weights"]
    rewritten(torch_models.iris_exported(), folder / "model.pt2", change, made)
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    with pytest.raises(LoadFailed):
        create_batch("torch").load(folder, None, RuntimeOptions())
    assert not made.exists()
    assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") == before


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("name", ["model.pt", "model.pth"])
def test_what_torch_save_wrote_is_refused(name: str, trust: bool, folder: Path) -> None:
    """Pickled modules and bare weights, new and old: the error says how to save the model."""
    for value in (torch_models.iris(), torch_models.iris().state_dict()):
        torch.save(value, folder / name)
        with pytest.raises(PickleRefused, match=r"torch\.export\.save"):
            detect_runtime(folder, trust_pickle=trust)
        torch.save(value, folder / name, _use_new_zipfile_serialization=False)
        with pytest.raises(PickleRefused, match=r"torch\.jit\.trace"):
            detect_runtime(folder, trust_pickle=trust)


def test_a_pickle_that_claims_to_be_a_program(folder: Path, tmp_path: Path) -> None:
    """A file is judged by its content: a pickle with the mark of TorchScript runs nothing."""
    made = tmp_path / "made"
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Evil(made), 2))
        archive.writestr("model/constants.pkl", b"\x80\x02).")
    with pytest.raises(PickleRefused, match="would run"):
        validate("torch", folder)
    assert not made.exists()


def _again(data: bytes, name: str, content: bytes = b"") -> bytes:
    written = io.BytesIO(data)
    with zipfile.ZipFile(written, "a") as archive:
        archive.writestr(name, content)
    return written.getvalue()


def _bomb(data: bytes) -> bytes:
    written = io.BytesIO(data)
    with zipfile.ZipFile(written, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("iris/data/99", b"\0" * (1 << 25))
    return written.getvalue()


def _evil(made: Path) -> bytes:
    """Return a script that writes a file."""
    path = made.with_name("evil.pt")
    return rewritten(torch_models.iris_script(), path, SAVING, made).read_bytes()


def _two_directories(data: bytes, made: Path) -> bytes:
    """Return an archive whose end tells PyTorch of other files than Python's reader finds.

    Python trusts what lies directly before the end, PyTorch the offset that is told there.
    """
    evil, evil_at = _body(_evil(made))
    good, good_at = _body(data)
    first, second = evil[evil_at:], _moved(good[good_at:], evil_at)
    files = evil[:evil_at] + good[:good_at]
    first_at = len(files)
    files += first
    record = struct.Struct("<4sQ2H2I4Q")
    told_at = len(files)
    for entries, at in ((first, first_at), (second, told_at + record.size)):
        if at != first_at:
            files += entries
        count = entries.count(b"PK\x01\x02")
        files += record.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(entries), at)
    files += struct.pack("<4sIQI", b"PK\x06\x07", 0, told_at, 1)
    most = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    return files + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, *most, 0)


def _body(data: bytes) -> tuple[bytes, int]:
    """Return files and directory of an archive written anew, and where its directory begins."""
    written = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(written, "w") as new,
    ):
        for name in old.namelist():
            new.writestr(f"model/{name.partition('/')[2]}", old.read(name))
    with zipfile.ZipFile(written) as archive:
        return written.getvalue()[:-22], archive.start_dir


def _moved(entries: bytes, by: int) -> bytes:
    """Return a directory for files that begin so many bytes later."""
    moved, at = bytearray(entries), 0
    while at < len(moved):
        name, extra, comment = struct.unpack_from("<3H", moved, at + 28)
        (offset,) = struct.unpack_from("<I", moved, at + 42)
        struct.pack_into("<I", moved, at + 42, offset + by)
        at += 46 + name + extra + comment
    return bytes(moved)


def _patched(at: int, form: str, value: int) -> Callable[[bytes], bytes]:
    """Return a change of what the record before the end of a script tells."""

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        struct.pack_into(form, changed, len(data) + at, value)
        return bytes(changed)

    return change


FRAMES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "something before": (lambda data: b"#!/bin/sh\n" + data, "before or behind"),
    "something behind": (
        lambda data: data + b"PK\x05\x06" + b"\0" * 30,
        "holds neither|before or behind",
    ),
    "another offset": (_patched(-50, "<Q", 60), "two ways"),
    "fewer files than there are": (_patched(-66, "<Q", 3), "two ways"),
    "a record elsewhere": (_patched(-34, "<Q", 60), "two ways"),
    "a comment": (
        lambda data: _patched(-4 - 2, "<H", 4)(data + b"more"),
        "two ways|neither|sound",
    ),
    "a second name": (lambda data: _again(data, "iris/x#y").replace(b"x#y", b"x\0y"), "two names"),
    "two folders": (lambda data: _again(data, "other/data.pkl"), "one folder"),
    "a file outside the folder": (lambda data: _again(data, "version"), "one folder"),
    "names that differ in case": (lambda data: _again(data, "iris/DATA.pkl"), "case only"),
    "a way up": (lambda data: _again(data, "iris/../../x"), "holds the path"),
    "a bomb": (_bomb, "bomb"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_archives_that_readers_may_read_differently(name: str, folder: Path) -> None:
    """PyTorch has a zip reader of its own, which must see what was examined."""
    change, cause = FRAMES[name]
    (folder / "model.pt").write_bytes(change(torch_models.iris_script().read_bytes()))
    with pytest.raises(InvalidArtifact, match=cause):
        validate("torch", folder)


def test_an_archive_of_two_directories(folder: Path, tmp_path: Path) -> None:
    """Python's reader sees the good script, PyTorch's runs the other; so it is refused."""
    made = tmp_path / "made"
    path = folder / "model.pt"
    path.write_bytes(_two_directories(torch_models.iris_script().read_bytes(), made))
    with zipfile.ZipFile(path) as archive:
        assert b"torch.save" not in b"".join(map(archive.read, archive.namelist()))
    subprocess.run([sys.executable, "-c", BY_TORCH, str(path)], capture_output=True, check=True)
    assert made.exists()
    with pytest.raises(InvalidArtifact, match="two ways"):
        validate("torch", folder)


def test_a_file_before_pytorch_2_8_names_the_way(folder: Path) -> None:
    """The exported programs of old releases hold pickles throughout."""
    with zipfile.ZipFile(folder / "model.pt2", "w") as archive:
        archive.writestr("version", "8.5")
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(InvalidArtifact, match=r"before 2\.8"):
        detect_runtime(folder, trust_pickle=False)


def test_harmless_statements_pass(folder: Path, tmp_path: Path) -> None:
    """The attacks are refused for what they do, not for having been rewritten."""
    change = source("_9 = ops.prim.unchecked_cast(Tensor, x)")
    rewritten(torch_models.iris_script(), folder / "model.pt", change, tmp_path)
    validate("torch", folder)
    (folder / "model.pt").unlink()
    rewritten(torch_models.iris_exported(), folder / "model.pt2", lambda *_: None, tmp_path)
    validate("torch", folder)
    runtime = create_batch("torch")
    try:
        runtime.load(folder, None, RuntimeOptions())
    except SalverError as error:  # what a rewritten archive lacks would show here
        pytest.fail(error.message)


def test_saved_tensors_pass(folder: Path, tmp_path: Path) -> None:
    """Sample inputs are a pickle of tensors, which is fine."""

    def change(files: dict[str, bytes], _: Path) -> None:
        files["data/sample_inputs/model.pt"] = saved(((torch.ones(2, 4),), {}))

    rewritten(torch_models.iris_exported(), folder / "model.pt2", change, tmp_path)
    validate("torch", folder)
