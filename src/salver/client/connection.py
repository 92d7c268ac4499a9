"""Where the servers are: given addresses, or those that the home folder tells."""

import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from salver.core.errors import ControlUnavailable

HOME_VARIABLE = "SALVER_HOME"
TOKEN_VARIABLE = "SALVER_CONTROL_TOKEN"  # noqa: S105 - the name of it
DEFAULT_DATA_URL = "http://127.0.0.1:8080"
DEFAULT_CONTROL_URL = "http://127.0.0.1:8090"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Both servers' base URLs and the secrets that open them; empty secrets are not sent.

    ``withheld`` is the home whose token the named control API does not get, as it is not that
    home's.
    """

    data_url: str
    control_url: str
    api_key: str = ""
    token: str = ""
    withheld: Path | None = None


def default_home() -> Path:
    """Return ``$SALVER_HOME``, or ``~/.salver``."""
    configured = os.environ.get(HOME_VARIABLE)
    return Path(configured) if configured else Path.home() / ".salver"


def find_addresses(
    home: Path | None,
    data_url: str | None = None,
    control_url: str | None = None,
    api_key: str = "",
) -> Addresses:
    """Fill in what was not given from the files of a running server in ``home``.

    The home's token is for the control API that the home itself names, and for no other address,
    which gets ``$SALVER_CONTROL_TOKEN``. Raises ``ControlUnavailable`` when the token file is to be
    sent but may not be read.
    """
    folder = default_home() if home is None else home
    running = _read_json(folder / "run" / "supervisor.json")
    data = (data_url or running.get("http_url") or DEFAULT_DATA_URL).rstrip("/")
    # A control that runs alone has no supervisor to write down where it is.
    own = running.get("control_url") or _read_json(folder / "run" / "control.json").get("url", "")
    given = (control_url or own or DEFAULT_CONTROL_URL).rstrip("/")
    file = folder / "control.token"
    if own and own in (given, given.replace("//localhost:", "//127.0.0.1:")):
        token = _read_token(file) or os.environ.get(TOKEN_VARIABLE, "")
        return Addresses(data, own, api_key, token)
    token = os.environ.get(TOKEN_VARIABLE, "")
    is_withheld = bool(control_url) and not token and file.exists()
    return Addresses(data, given, api_key, token, folder if is_withheld else None)


def _read_json(path: Path) -> dict[str, str]:
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ControlUnavailable(
            f"the control token {path} cannot be read ({error.strerror}); run this as the user "
            "who started the server"
        ) from error
