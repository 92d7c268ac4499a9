"""Says that this worker lives, and has it ended when it no longer does."""

from pathlib import Path

from salver.core.clock import Clock
from salver.core.settings import EngineSettings
from salver.engine.worker.watchdog import expect_life
from salver.observe.heartbeat import open_pulse
from salver.wire.pulse import Pulse

_IN_QUARANTINE = 0.5


class Life:
    """Component that promises when this process's event loop will come round again.

    Who breaks a promise is killed by the supervisor, which is all that helps where the process was
    stopped. Code that holds the interpreter's lock ends by itself a little earlier, and says where
    it was. ``folder`` is where the supervisor and gateways of this machine look.
    """

    def __init__(self, folder: Path, worker: str, settings: EngineSettings, clock: Clock) -> None:
        self._folder = folder
        self._worker = worker
        self._settings = settings
        self._clock = clock
        self._pulse: Pulse | None = None

    def start(self) -> None:
        """Be looked at from now on; without room for that only code is watched."""
        self._pulse = open_pulse(self._folder, self._worker)

    def stop(self) -> None:
        """Promise nothing more; the last promise is the time that is left to end."""
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None

    def promise(self, *, runs_code: bool, loads: bool, hurried: bool) -> None:
        """Come round again within ``engine.unresponsive_s``.

        A load may hold the interpreter's lock as long as it may take: reading one large file can be
        a single call. While others wait behind it, a run in quarantine has half of the time.
        """
        settings = self._settings
        seconds = settings.unresponsive_s
        if loads:
            seconds = max(seconds, settings.load_timeout_s)
        elif hurried:
            seconds *= _IN_QUARANTINE
        if runs_code:
            expect_life(seconds)
        if self._pulse is not None:
            now_ns = self._clock.monotonic_ns()
            self._pulse.beat(now_ns, now_ns + round(seconds * 1e9))
