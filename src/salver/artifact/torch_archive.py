"""What a PyTorch file is, told from its zip directory without loading anything."""

import zipfile
from enum import Enum
from pathlib import Path

from salver.core.errors import InvalidArtifact, PickleRefused

SUFFIXES = (".pt", ".pth", ".pt2")
EXPORTED_MARK = "archive_format"
SCRIPT_MARK = "constants.pkl"
_PICKLE_MARK = "data.pkl"
HOW = (
    "save the model with torch.export.save(torch.export.export(model, args), 'model.pt2'), or with "
    "torch.jit.trace(model, args).save('model.pt')"
)


class Kind(Enum):
    """What torch wrote into an archive."""

    SCRIPT = "TorchScript"
    EXPORTED = "exported program"


def kind_of(path: Path) -> Kind:
    """Return what an archive holds.

    Raises ``PickleRefused`` for what ``torch.save`` wrote, a model or bare weights, and
    ``InvalidArtifact`` for what is no archive of torch's.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise InvalidArtifact(
            f"{path.name} is no archive of PyTorch's ({error}); if torch.save wrote it, {HOW}"
        ) from error
    inner = {name.partition("/")[2] for name in names}
    if EXPORTED_MARK in inner:
        return Kind.EXPORTED
    if SCRIPT_MARK in inner:
        return Kind.SCRIPT
    if _PICKLE_MARK in inner or _PICKLE_MARK in names:
        raise pickled(path.name)
    if "serialized_exported_program.json" in names:
        raise InvalidArtifact(
            f"{path.name} was exported by a PyTorch before 2.8; load it there and {HOW} with a "
            "newer one"
        )
    raise InvalidArtifact(f"{path.name} holds neither TorchScript nor an exported program; {HOW}")


def pickled(name: str) -> PickleRefused:
    """Return why what ``torch.save`` writes is not loaded."""
    return PickleRefused(
        f"{name} was written by torch.save: a pickle, which runs whatever code is in it when it is "
        f"loaded, or weights without the model they belong to; {HOW}"
    )
