"""What a version is: its files, its signature, and how it was examined."""

import hashlib

import msgspec

from salver.core.errors import InvalidArtifact
from salver.core.sequences import Sequences
from salver.core.signature import Signature
from salver.core.steps import Steps

SCHEMA = 1


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: path inside the artifact, digest and size."""

    path: str
    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The manifest of one version.

    ``max_batch_size`` of 1 switches batching off, ``batching_note`` says why. ``golden`` is the
    digest of the blob with the golden examples. ``provenance`` holds who, when, from where and
    with which libraries. ``sequences`` is set where rows of unlike lengths may run together.
    ``most_rows`` is how many rows the model itself takes at once, 0 where nothing bounds them: no
    endpoint may ask for larger batches.
    """

    runtime: str
    files: tuple[FileEntry, ...]
    signature: Signature
    schema: int = SCHEMA
    max_batch_size: int = 64
    batching_note: str = ""
    golden: str = ""
    trust_pickle: bool = False
    trust_code: bool = False
    steps: Steps | None = None
    resident_bytes: int = 0
    provenance: dict[str, str] = {}
    sequences: Sequences | None = None
    most_rows: int = 0

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(file.size_bytes for file in self.files)

    @property
    def blobs(self) -> frozenset[str]:
        """Digests of all bytes that a version needs: its files and its golden examples."""
        golden = (self.golden,) if self.golden else ()
        return frozenset((*(file.sha256 for file in self.files), *golden))

    @property
    def digest(self) -> str:
        """Digest of what is executed: runtime, files and steps, whatever was said about them."""
        return artifact_digest(self.runtime, self.files, self.steps)


def artifact_digest(runtime: str, files: tuple[FileEntry, ...], steps: Steps | None = None) -> str:
    """Return the SHA-256 over the runtime, the sorted list of files, and the steps if any."""
    rows = sorted((file.path, file.sha256, file.size_bytes) for file in files)
    parts: list[object] = [runtime, rows] if steps is None else [runtime, rows, steps]
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def to_json(manifest: Manifest) -> bytes:
    """Return the manifest with sorted keys, so that equal manifests have equal bytes."""
    return msgspec.json.encode(manifest, order="deterministic")


def from_json(data: bytes) -> Manifest:
    """Read a manifest; raises ``InvalidArtifact``."""
    try:
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise InvalidArtifact(f"the manifest cannot be read: {error}") from error
