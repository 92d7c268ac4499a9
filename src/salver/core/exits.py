"""How a process ends that cannot begin: a line for people, a status for who started it."""

import os
import sys
from typing import NoReturn

from salver.core.errors import InvalidSettings, SalverError

BAD_SETTINGS = os.EX_CONFIG
"""Another start with the same settings would end the same way."""
PREFIX = "error: "


def give_up(error: SalverError) -> NoReturn:
    """End this process with what is wrong on standard error."""
    sys.stderr.write(f"{PREFIX}{error.message} [{error.code}]\n")
    sys.exit(BAD_SETTINGS if isinstance(error, InvalidSettings) else 1)
