"""Makes who tells webhooks, from settings and the home folder."""

from importlib import import_module
from pathlib import Path

from salver.control.webhooks.attempt import Send, to_nobody
from salver.control.webhooks.resolver import Resolver
from salver.core.clock import Clock
from salver.core.errors import InvalidSettings
from salver.core.secret_file import load_secret
from salver.core.settings import ControlSettings
from salver.core.webhooks import read_allow_list

_KEY_BYTES = 32


def open_sender(home: Path, settings: ControlSettings, clock: Clock) -> Send:
    """Return what carries attempts out.

    ``HOME/webhook.key`` signs, made at the first start; several secrets in it, on lines of their
    own, all sign. The HTTP client is loaded only where hosts are allowed. Raises
    ``InvalidSettings`` for settings and files that are of no use.
    """
    lines = load_secret(home / "webhook.key", _KEY_BYTES).splitlines()
    secrets = [line.strip() for line in lines if line.strip()]
    if not secrets:
        raise InvalidSettings(
            f"{home / 'webhook.key'} is empty; write a secret into it, or remove it for a new one"
        )
    allowed = read_allow_list(settings.webhook_hosts, settings.webhook_networks)
    if not allowed.hosts:
        return to_nobody
    module = import_module("salver.control.webhooks.sender")
    trusted = module.trusting(settings.webhook_ca)
    sender: Send = module.Sender(allowed, secrets, trusted, Resolver(), clock)
    return sender
