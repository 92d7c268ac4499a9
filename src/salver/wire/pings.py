"""The question whether somebody is still there."""

import msgspec

FIRST_PING_VERSION = 5
"""From this version on, workers answer ``Ping``."""


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """Are you there? Whoever gets it over a link that it did not open sends it back as it is."""

    number: int
