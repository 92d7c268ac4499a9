"""Pushing again repairs what is damaged where it is stored."""

import hashlib
from pathlib import Path

import httpx

from tests.e2e.server import Server
from tests.runtimes.code_models import DOUBLE, write

PARTS = ("a", "b", "c", "d")


def damage_all(home: Path) -> list[Path]:
    """Change one bit of every stored file."""
    blobs = list((home / "blobs" / "sha256").glob("??/*"))
    for blob in blobs:
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.write_bytes(data)
    return blobs


def test_one_push_repairs_all_files(tmp_path: Path) -> None:
    """However many files, documents and recorded answers are damaged; a refusal names each."""
    folder = write(tmp_path / "model", DOUBLE, **{f"{part}__txt": part for part in PARTS})
    example = tmp_path / "example.json"
    example.write_text(
        '{"inputs": [{"name": "x", "datatype": "FP64", "shape": [2, 1], "data": [1.0, 2.0]}]}'
    )
    with Server(tmp_path / "home") as server:
        server.push(folder, "parts", "--example", str(example), "--trust-code")
        blobs = damage_all(server.home)
        assert len(blobs) > len(PARTS)
        server.push(folder, "parts", "--example", str(example), "--trust-code")
        for blob in blobs:
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        damage_all(server.home)
        files = [
            {
                "path": path.name,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "size_bytes": path.stat().st_size,
            }
            for path in folder.iterdir()
        ]
        refused = httpx.post(
            f"{server.state()['control_url']}/api/v1/models/parts/versions",
            json={"files": files, "trust_code": True},
            headers={"authorization": f"Bearer {(server.home / 'control.token').read_text()}"},
            timeout=60,
        ).json()
        assert refused["code"] == "digest_mismatch"
        for path in folder.iterdir():
            assert path.name in refused["error"]
