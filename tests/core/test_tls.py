"""The certificate files of a port: what is refused, with which words."""

from collections.abc import Callable
from pathlib import Path

import pytest

from salver.core.errors import InvalidSettings
from salver.core.tls import ServerTls, server_context, server_tls
from tests.certificates import Authority


def missing(folder: Path) -> ServerTls:
    """Name a certificate that does not exist."""
    good = Authority(folder).issue("a")
    return ServerTls(folder / "none.pem", good.key)


def missing_key(folder: Path) -> ServerTls:
    """Name a key that does not exist."""
    good = Authority(folder).issue("a")
    return ServerTls(good.certificate, folder / "none.key")


def a_folder(folder: Path) -> ServerTls:
    """Name a folder, which cannot be read as a file whoever asks."""
    good = Authority(folder).issue("a")
    return ServerTls(folder, good.key)


def other_key(folder: Path) -> ServerTls:
    """Give the key of another certificate."""
    authority = Authority(folder)
    return ServerTls(authority.issue("a").certificate, authority.issue("b").key)


def expired(folder: Path) -> ServerTls:
    """Give a certificate of the past."""
    old = Authority(folder).issue("a", days=-1)
    return ServerTls(old.certificate, old.key)


def encrypted(folder: Path) -> ServerTls:
    """Give a key that takes a password."""
    locked = Authority(folder).issue("a", password=b"secret")
    return ServerTls(locked.certificate, locked.key)


def garbage(folder: Path) -> ServerTls:
    """Give a file that holds no certificate."""
    good = Authority(folder).issue("a")
    good.certificate.write_text("nothing of the kind")
    return ServerTls(good.certificate, good.key)


def swapped(folder: Path) -> ServerTls:
    """Give both files in the wrong order."""
    good = Authority(folder).issue("a")
    return ServerTls(good.key, good.certificate)


def authority_garbage(folder: Path) -> ServerTls:
    """Give an authority that is none."""
    good = Authority(folder).issue("a")
    other = folder / "other.pem"
    other.write_text("nothing of the kind")
    return ServerTls(good.certificate, good.key, other)


def authority_missing(folder: Path) -> ServerTls:
    """Give an authority that does not exist."""
    good = Authority(folder).issue("a")
    return ServerTls(good.certificate, good.key, folder / "none.pem")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, "--tls-cert: .*none.pem cannot be read .No such file"),
        (missing_key, "--tls-key: .*none.key cannot be read"),
        (a_folder, "--tls-cert: .* cannot be read"),
        (other_key, "--tls-key: .* is not the key of"),
        (expired, "--tls-cert: .* has expired"),
        (encrypted, "--tls-key: .* is encrypted"),
        (garbage, "--tls-cert.* both must be PEM files"),
        (swapped, "--tls-cert.* both must be PEM files"),
        (authority_garbage, "--tls-client-ca: .* has no certificate"),
        (authority_missing, "--tls-client-ca: .* cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, make: Callable[[Path], ServerTls], words: str) -> None:
    """The error names the option, the file and the cause in one line."""
    with pytest.raises(InvalidSettings, match=words) as refused:
        server_context(make(tmp_path))
    assert "\n" not in refused.value.message


def test_good_files(tmp_path: Path) -> None:
    """Files that fit are taken."""
    authority = Authority(tmp_path)
    good = authority.issue("a")
    assert server_context(ServerTls(good.certificate, good.key, authority.file))


def test_options_that_do_not_go_together() -> None:
    """A certificate takes a key and the other way round; an authority of clients takes both."""
    file = Path("x")
    for certificate, key, authority in (
        (file, None, None),
        (None, file, None),
        (None, None, file),
        (None, file, file),
    ):
        with pytest.raises(InvalidSettings, match="--tls-"):
            server_tls(certificate, key, authority, has_keys=False)
    assert server_tls(None, None, None, has_keys=True) is None


@pytest.mark.parametrize("has_keys", [True, False])
def test_who_must_show_a_certificate(has_keys: bool) -> None:
    """Every client, unless API keys can stand in for it."""
    tls = server_tls(Path("c"), Path("k"), Path("a"), has_keys=has_keys)
    assert tls is not None
    assert tls.clients_must is not has_keys
