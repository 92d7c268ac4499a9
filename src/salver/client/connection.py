"""Where the servers are: given addresses, or those that the home folder tells."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from salver.core.errors import ControlUnavailable
from salver.core.presence import announced

HOME_VARIABLE = "SALVER_HOME"
TOKEN_VARIABLE = "SALVER_CONTROL_TOKEN"  # noqa: S105 - the name of it
DEFAULT_DATA_URL = "http://127.0.0.1:8080"
DEFAULT_CONTROL_URL = "http://127.0.0.1:8090"
_OWNER = "run this as the user who started the server"
_FILES = ("supervisor.json", "control.json")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Both servers' base URLs and the secrets that open them; empty secrets are not sent.

    ``withheld`` is the home whose token the named control API does not get, as it is not that
    home's. Where a URL is empty nothing is asked, and ``unknown`` says why and what to do.
    """

    data_url: str
    control_url: str
    api_key: str = ""
    token: str = ""
    withheld: Path | None = None
    unknown: str = ""


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

    Its files count while their writers live. A home that never had a server means one at the
    default ports, and any other home without one means none.
    The home's token is for the control API that the home itself names, and for no other address,
    which gets ``$SALVER_CONTROL_TOKEN``. Raises ``ControlUnavailable`` when the token file is to be
    sent but may not be read.
    """
    folder = default_home() if home is None else home
    # A control that runs alone has no supervisor to write down where it is.
    running, alone = (announced(folder / "run" / name) for name in _FILES)
    own = running.get("control_url") or alone.get("url", "")
    unknown = _why_unknown(folder)
    data = data_url or running.get("http_url") or ("" if unknown else DEFAULT_DATA_URL)
    given = control_url or own or ("" if unknown else DEFAULT_CONTROL_URL)
    data, given = data.rstrip("/"), given.rstrip("/")
    file = folder / "control.token"
    if own and own in (given, given.replace("//localhost:", "//127.0.0.1:")):
        token = _read_token(file) or os.environ.get(TOKEN_VARIABLE, "")
        return Addresses(data, own, api_key, token, unknown=unknown)
    token = os.environ.get(TOKEN_VARIABLE, "")
    is_withheld = bool(control_url) and not token and file.exists()
    return Addresses(data, given, api_key, token, folder if is_withheld else None, unknown)


def _why_unknown(home: Path) -> str:
    """Tell why nothing is asked when a home names no server; empty for one that never had any.

    Whoever listens where its server was, or at a default port, may be anybody.
    """
    run = home / "run"
    try:
        # The folder, as a server that was stopped has taken its files away.
        run.stat()
        for name in _FILES:
            with suppress(FileNotFoundError), (run / name).open("rb"):
                pass
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror}); {_OWNER}"
    return (
        f"nothing runs from {home} here; start it with 'salver up --home {home}', or name another "
        "home with --home; a server on another machine or in a container is named with --url and "
        "--control-url"
    )


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ControlUnavailable(
            f"the control token {path} cannot be read ({error.strerror}); {_OWNER}"
        ) from error
