"""Jobs that go together, or have to be told from each other."""

from salver.engine.worker.job import Job


def by_reply(jobs: list[Job]) -> list[list[Job]]:
    """Return jobs by whom they are answered to, in order."""
    if len(jobs) < 2:  # noqa: PLR2004 - there is nothing to sort
        return [jobs] if jobs else []
    groups: dict[int, list[Job]] = {}
    for job in jobs:
        groups.setdefault(id(job.reply), []).append(job)
    return [*groups.values()]


def told_apart(jobs: list[Job], now_ns: int) -> list[Job]:
    """Return jobs of which some requests, but not all, may be cancelled or late, one by one."""
    apart: list[Job] = []
    for job in jobs:
        if job.gone or (job.remaining_us and job.deadline_ns <= now_ns):
            job.reply.forget(job)
            for one in job.each():
                one.reply.begin(one)
                apart.append(one)
        else:
            apart.append(job)
    return apart
