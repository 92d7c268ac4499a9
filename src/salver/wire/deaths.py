"""What the supervisor and gateways say of processes that are gone."""

import msgspec


class Death(msgspec.Struct, frozen=True, array_like=True):
    """A worker's process that is gone; ``worker`` and ``pid`` say which.

    Of the supervisor: it ended though nobody had asked it to, ``variants`` are what it hosted, and
    ``plan`` was in force. Of a gateway: its link was lost, and of ``variants`` it ran requests.
    Snapshots repeat the newest ones.
    """

    worker: str
    pid: int
    variants: tuple[str, ...]
    plan: int = 0
