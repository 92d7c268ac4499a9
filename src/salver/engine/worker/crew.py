"""Several instances of one model, each with a thread of its own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from salver.core.signature import Signature
from salver.runtimes.base import Batch, BatchRuntime, RuntimeOptions, provider_of


class Member(NamedTuple):
    """One instance and the thread in which it was loaded, runs, and is released."""

    runtime: BatchRuntime
    threads: ThreadPoolExecutor


class Crew:
    """Batch runtime of ``count`` instances; whoever runs several batches uses ``members``.

    Instances share nothing, so code that is not thread-safe need not become so. They are loaded
    one after the other.
    """

    def __init__(self, create: Callable[[], BatchRuntime], count: int) -> None:
        self._create = create
        self._count = count
        self.members: tuple[Member, ...] = ()

    @property
    def provider(self) -> str:
        """What the instances compute with."""
        return provider_of(self.members[0].runtime) if self.members else ""

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load every instance, or none; raises what the first that fails does."""
        try:
            for index in range(self._count):
                threads = ThreadPoolExecutor(1, thread_name_prefix=f"instance-{index}")
                runtime = self._create()
                self.members = (*self.members, Member(runtime, threads))
                threads.submit(runtime.load, folder, signature, options).result()
        except BaseException:
            self.unload()
            raise

    def signature(self) -> Signature | None:
        """Return what the first instance says."""
        return self.members[0].runtime.signature()

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Answer one batch with the first instance, in its thread."""
        first = self.members[0]
        return first.threads.submit(first.runtime.run, batch, outputs).result()

    def unload(self) -> None:
        """Release every instance when its batch is done."""
        members, self.members = self.members, ()
        for member in members:
            member.threads.submit(member.runtime.unload)
        for member in members:
            member.threads.shutdown()
