"""Hedging: a request whose backend says nothing for a while is asked of a second one as well, and whoever begins to answer first serves it.

Dean and Barroso, The tail at scale, Communications of the ACM 56(2), 2013. Off by default. The other try is aborted before a byte of the answer
has gone to the client, so that no request is executed twice after its first byte.
"""

import asyncio
from collections.abc import Awaitable, Callable

from rota.route.job import Job
from rota.route.router import Router
from rota.route.upstream import Connection, Head, Pool, UpstreamError

Opened = tuple[Pool, Connection, Head]
Open = Callable[[Job], Awaitable[Opened]]


async def hedged(router: Router, job: Job, open_: Open) -> Opened:
    """The answer of the backend that begins first; the job is then in that backend's account.

    Args:
        open_: Sends a job to its backend and waits for the first bytes of the answer.

    Raises:
        UpstreamError: of the last backend that was asked, when none answered.
    """
    mine = asyncio.ensure_future(open_(job))
    twin: Job | None = None
    tasks = [mine]
    won: Opened | None = None
    try:
        await asyncio.wait(tasks, timeout=router.settings.written.hedge.after)
        if not mine.done() and (twin := router.hedge(job)) is not None:
            theirs = asyncio.ensure_future(open_(twin))
            tasks.append(theirs)
            won = await _race(router, job, twin, {mine: job, theirs: twin})
        else:
            won = await mine
        return won
    finally:
        for task in tasks:
            await _abandon(task, won)
        if twin is not None:
            router.drop_twin(twin)


async def _race(router: Router, job: Job, twin: Job, asked: "dict[asyncio.Future[Opened], Job]") -> Opened:
    """The first good answer; a failure, or a status that would be tried again, only when nobody else is left."""
    statuses = router.settings.written.retry.statuses
    while True:
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        for task in [each for each in asked if each in done]:
            request = asked.pop(task)
            error = task.exception()
            why = _why(error) if error is not None else ""
            if error is None and task.result()[2].status in statuses:
                why = f"status {task.result()[2].status}"
            if not why or not asked:
                if request is twin:
                    router.adopt(job, twin)
                return task.result()
            router.failed(request, why)


def _why(error: BaseException) -> str:
    if isinstance(error, UpstreamError):
        return error.why
    raise error


async def _abandon(task: "asyncio.Future[Opened]", won: Opened | None) -> None:
    """End a try that lost: its backend sees its client leave."""
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
    if not task.cancelled() and task.exception() is None and (opened := task.result()) is not won:
        opened[1].abort()
