"""PyTorch archives: a sound zip, pickles of tensors only, and programs of known operators.

PyTorch reads zip files with a reader of its own, so an archive in which two readers could see
different files is refused. What is in the files is judged in ``torchscript`` and ``exported``.
"""

import pickletools
import zipfile
import zlib
from pathlib import Path

from salver.artifact.torch_archive import HOW, SCRIPT_MARK, SUFFIXES, Kind, kind_of
from salver.artifact.validate.archives import LOCAL_MAGIC, check_entries, check_frame
from salver.artifact.validate.base import model_file
from salver.artifact.validate.exported import check_program, check_weights
from salver.artifact.validate.torchscript import check_source
from salver.core.errors import InvalidArtifact, PickleRefused

_MAX_ENTRIES = 100_000
_MAX_BYTES = 64 * 1024**3
_MAX_PICKLE_BYTES = 64 * 1024**2
_MAX_SOURCE_BYTES = 64 * 1024**2
_MAX_PROGRAM_BYTES = 256 * 1024**2
_MAX_OPCODES = 5_000_000
_UNSOUND = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ZIP_TENSORS = ".pt"
_FOREIGN_OPCODES = {"INST", "EXT1", "EXT2", "EXT4", "OBJ", "STACK_GLOBAL"}
_MODULES = ("torch", "__torch__", "collections")


def validate(folder: Path) -> None:
    """Check the one archive of the folder."""
    path = model_file(folder, SUFFIXES)
    kind = kind_of(path)
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            check_frame(file, archive)
            root = _check_layout(archive, path.stat().st_size)
            if archive.testzip() is not None:
                raise InvalidArtifact("a file in the archive is damaged")
            if kind is Kind.SCRIPT:
                _check_script(archive, root)
            else:
                _check_exported(archive, root)
    except _UNSOUND as error:
        raise InvalidArtifact(f"{path.name} is not a sound zip file: {error}") from error


def _check_layout(archive: zipfile.ZipFile, size_bytes: int) -> str:
    """Return the one folder that everything lies in."""
    entries = archive.infolist()
    check_entries(entries, size_bytes, most=_MAX_ENTRIES, most_bytes=_MAX_BYTES)
    if any(entry.filename != entry.orig_filename for entry in entries):
        raise InvalidArtifact("the archive holds a file of two names")
    if len({entry.filename.lower() for entry in entries}) != len(entries):
        raise InvalidArtifact("the archive holds two files whose names differ in case only")
    roots = {entry.filename.partition("/")[0] for entry in entries}
    if len(roots) != 1 or any("/" not in entry.filename for entry in entries):
        raise InvalidArtifact("the files of the archive do not lie in one folder")
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.compress_type not in _METHODS:
            raise InvalidArtifact(f"{entry.filename[:80]!r} is compressed in an unknown way")
        if entry.header_offset < end:
            raise InvalidArtifact("two files of the archive overlap")
        end = entry.header_offset + entry.compress_size
    return roots.pop()


def _files(archive: zipfile.ZipFile, root: str) -> dict[str, zipfile.ZipInfo]:
    """Return files by their names in lower case, since PyTorch's reader finds them in any."""
    return {entry.filename[len(root) + 1 :].lower(): entry for entry in archive.infolist()}


def _check_script(archive: zipfile.ZipFile, root: str) -> None:
    """Check what ``torch.jit.load`` reads; it unpickles in C++, which knows tensors only."""
    code_bytes = 0
    for name, entry in _files(archive, root).items():
        if name == "model.json":
            raise InvalidArtifact(f"the file was written by a PyTorch before 1.0; {HOW}")
        if name.startswith("code/") and name.endswith(".py"):
            code_bytes += entry.file_size
            if code_bytes > _MAX_SOURCE_BYTES:
                raise InvalidArtifact(f"the program is over {_MAX_SOURCE_BYTES} bytes")
            check_source(name, archive.read(entry))
        elif name in ("data.pkl", "constants.pkl"):
            _check_pickle(name, _read(archive, entry))


def _check_exported(archive: zipfile.ZipFile, root: str) -> None:
    """Check what ``torch.export.load`` reads."""
    names = _files(archive, root)
    if "archive_version" not in names or "models/model.json" not in names:
        raise InvalidArtifact(f"the archive holds no exported program named 'model'; {HOW}")
    for name, entry in names.items():
        if name.startswith("data/aotinductor/"):
            raise InvalidArtifact(
                f"the archive holds machine code of AOTInductor's, which could do anything; {HOW}"
            )
        if "custom_obj" in name:
            raise InvalidArtifact("the program holds an object of a C++ class; use tensors only")
        if name.startswith("models/"):
            if name != "models/model.json":
                raise InvalidArtifact("the archive holds several programs; export one by itself")
            check_program(_read(archive, entry, _MAX_PROGRAM_BYTES))
        elif name.startswith("data/") and name.endswith(".json"):
            check_weights(name, _read(archive, entry, _MAX_PROGRAM_BYTES))
        elif name.startswith("data/"):
            _check_tensors(name, archive, entry)


def _check_tensors(name: str, outer: zipfile.ZipFile, tensors: zipfile.ZipInfo) -> None:
    """Check what ``torch.save`` wrote inside an exported program; raw numbers need no check."""
    with outer.open(tensors) as file:
        head = file.read(len(LOCAL_MAGIC))
    if head != LOCAL_MAGIC:
        if head and name.endswith(_ZIP_TENSORS):
            raise PickleRefused(f"{name[:80]!r} is a pickle, and no archive of tensors; {HOW}")
        return
    with outer.open(tensors) as file, zipfile.ZipFile(file) as archive:
        check_frame(file, archive)
        root = _check_layout(archive, tensors.file_size)
        for inner, entry in _files(archive, root).items():
            if inner == SCRIPT_MARK or inner.startswith("code/"):
                raise InvalidArtifact(f"{name[:80]!r} holds a program of its own; {HOW}")
            if inner.endswith(".pkl"):
                _check_pickle(f"{name}/{inner}", _read(archive, entry))


def _read(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most_bytes: int = _MAX_PICKLE_BYTES
) -> bytes:
    if entry.file_size > most_bytes:
        raise InvalidArtifact(f"{entry.filename[:80]!r} is over {most_bytes} bytes")
    return archive.read(entry)


def _check_pickle(name: str, data: bytes) -> None:
    """Raise ``PickleRefused`` where a pickle names anything but tensors and what holds them."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count > _MAX_OPCODES:
            raise InvalidArtifact(f"{name[:80]!r} has over {_MAX_OPCODES} steps")
        if opcode.name in _FOREIGN_OPCODES:
            raise PickleRefused(f"{name[:80]!r} uses {opcode.name}, which torch never writes")
        if opcode.name == "GLOBAL":
            _check_global(name, str(argument).partition(" ")[0])


def _check_global(name: str, module: str) -> None:
    if module.partition(".")[0] not in _MODULES:
        raise PickleRefused(
            f"{name[:80]!r} is a pickle that calls {module[:80]!r}, which would run when it is "
            f"loaded; {HOW}"
        )
