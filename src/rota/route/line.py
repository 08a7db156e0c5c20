"""The waiting line: requests that no backend can take now, in the order of the hold policy."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rota.route.backend import Backend
from rota.route.decide import Choice, Decisions
from rota.route.job import Job
from rota.route.problems import Problem
from rota.route.settings import Line as LineSettings


@dataclass(eq=False)
class _Place:
    job: Job
    chosen: "asyncio.Future[Choice]"


class Line:
    """One line for all models: a request waits only for backends that have its model, and lets others pass that can go."""

    def __init__(
        self,
        settings: LineSettings,
        decisions: Callable[[], Decisions],
        candidates: Callable[[Job, float], Sequence[Backend]],
        dispatch: Callable[[Job, Choice, float], None],
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self._decisions, self._candidates, self._dispatch, self._clock = decisions, candidates, dispatch, clock
        self._waiting: dict[int, _Place] = {}
        self.shed = 0
        self._left_at: float | None = None
        self._pace = 1.0  # seconds between two that leave the line, smoothed

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def jobs(self) -> list[Job]:
        return [each.job for each in self._waiting.values()]

    async def place(self, job: Job) -> Choice:
        """The backend of a job, at once or when its turn has come; the job is then in that backend's account.

        Raises:
            Problem: 404 where no backend has the model, 503 where none that has it is up, 429 where the line is full or the wait too long.
        """
        now = self._clock()
        if not self._waiting:  # nobody to overtake
            choice = self._ask(job, self._candidates(job, now), now)
            if choice is not None:
                return choice
        else:
            self._candidates(job, now)
        return await self._wait(job, now)

    def _ask(self, job: Job, backends: Sequence[Backend], now: float) -> Choice | None:
        decisions = self._decisions()
        choice = decisions.choose(job, backends, now)
        if choice.backend is None:
            return None
        self._dispatch(job, choice, now)
        return choice

    async def _wait(self, job: Job, now: float) -> Choice:
        mine = _Place(job, asyncio.get_running_loop().create_future())
        self._waiting[job.id] = mine
        if len(self._waiting) > self.settings.room:
            self._shed_last(now)
        else:
            self.pump()
        try:
            async with asyncio.timeout(self.settings.seconds):
                return await mine.chosen
        except TimeoutError:
            self.shed += 1
            text = f"no backend had room within {self.settings.seconds:g} s; try again later"
            raise Problem(429, text, "rate_limit_error", code="overloaded", retry_after=self.retry_after()) from None
        finally:
            self._waiting.pop(job.id, None)

    def _shed_last(self, now: float) -> None:
        """The line is full: the last of its order is refused, which need not be the last who came."""
        ranked = self._decisions().order(self.jobs, now)
        staying = {job.id for job in ranked}
        last = next((job for job in reversed(self.jobs) if job.id not in staying), None) or ranked[-1]
        self.shed += 1
        text = f"{self.settings.room} requests are waiting already; try again later"
        problem = Problem(429, text, "rate_limit_error", code="overloaded", retry_after=self.retry_after())
        refused = self._waiting.pop(last.id)
        if not refused.chosen.done():
            refused.chosen.set_exception(problem)

    def retry_after(self) -> float:
        """Seconds until the line will have moved on: those who wait, at the pace of late."""
        return min(max(1.0, len(self._waiting) * self._pace), 60.0)

    def pump(self) -> None:
        """Send whoever can go now. Called when a request ends, when a backend comes, and on a rhythm."""
        if not self._waiting:
            return
        now = self._clock()
        again = True
        while again:
            decisions = self._decisions()
            jobs = [each.job for each in self._waiting.values() if not each.chosen.done()]
            again = self._serve(decisions.order(jobs, now), now, decisions.hold.asked == "pick") if jobs else False

    def _serve(self, ranked: Sequence[Job], now: float, one: bool) -> bool:
        """Send those who can go, in order; only the first of them where the order has to be asked again after each. Returns whether to ask again."""
        full: set[str] = set()  # models of which nothing is free
        for job in ranked:
            if job.model in full and not job.tried:
                continue
            place = self._waiting[job.id]
            try:
                backends = self._candidates(job, now)
                if not _any_free(backends, now):
                    if not job.tried:
                        full.add(job.model)
                    continue
                choice = self._ask(job, backends, now)
            except Problem as problem:
                place.chosen.set_exception(problem)
                self._waiting.pop(job.id)
                continue
            if choice is not None:
                place.chosen.set_result(choice)
                self._waiting.pop(job.id)
                self._keep_pace(now)
                if one:
                    return True
        return False

    def _keep_pace(self, now: float) -> None:
        if self._left_at is not None:
            self._pace += 0.1 * (min(now - self._left_at, 60.0) - self._pace)
        self._left_at = now

    def refuse_all(self, problem: Problem) -> None:
        """Everybody goes home: the router shuts down."""
        for each in self._waiting.values():
            if not each.chosen.done():
                each.chosen.set_exception(problem)
        self._waiting.clear()


def _any_free(backends: Sequence[Backend], now: float) -> bool:
    busiest = max((len(each.outstanding) for each in backends), default=0)
    return any(len(each.outstanding) < each.limit(now, busiest) for each in backends)
