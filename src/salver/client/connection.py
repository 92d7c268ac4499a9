"""Where the servers are: given addresses, or those that the home folder tells."""

import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from salver.core.errors import ControlUnavailable

HOME_VARIABLE = "SALVER_HOME"
DEFAULT_DATA_URL = "http://127.0.0.1:8080"
DEFAULT_CONTROL_URL = "http://127.0.0.1:8090"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Both servers' base URLs and the secrets that open them; empty secrets are not sent."""

    data_url: str
    control_url: str
    api_key: str = ""
    token: str = ""


def default_home() -> Path:
    """Return ``$SALVER_HOME``, or ``~/.salver``."""
    configured = os.environ.get(HOME_VARIABLE)
    return Path(configured) if configured else Path.home() / ".salver"


def find_addresses(
    home: Path | None,
    data_url: str | None = None,
    control_url: str | None = None,
    api_key: str = "",
    token: str = "",
) -> Addresses:
    """Fill in what was not given from the files of a running server in ``home``.

    Raises ``ControlUnavailable`` when the token file exists but may not be read.
    """
    folder = default_home() if home is None else home
    running = _read_json(folder / "run" / "supervisor.json")
    return Addresses(
        (data_url or running.get("http_url") or DEFAULT_DATA_URL).rstrip("/"),
        (control_url or running.get("control_url") or DEFAULT_CONTROL_URL).rstrip("/"),
        api_key,
        token or _read_token(folder / "control.token"),
    )


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
