"""The default: a rule to begin with, then local search and CP-SAT side by side, each told what the other finds.

With a limit of time, local search has half of the workers and CP-SAT the rest (with one worker they take turns). With a limit of work there is
nothing side by side: the rule, then local search for that much work, then CP-SAT, told the best schedule, for a deterministic
second per hundred thousand units; so a run is repeatable to the bit.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from queue import Empty, Queue
from threading import Event, Thread

from rota.kernel.errors import MissingExtraError
from rota.worlds.shop.model import Problem
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.solver import HEARTBEAT, Limit, Solver, Step, Steps

RULES = ("rule:fdd_mwkr", "rule:mwkr", "rule:atc", "rule:spt")
LOCAL = ("tabu", "flexible_tabu", "project", "iterated_greedy", "branch", "dynasearch", "lns", "annealing")
SHARE_OF_WORK = 100  # units of local search for a thousandth of a deterministic second
REPAIRS = 10_000  # units of the others for a repair of large neighbourhood search
TURN = (0.1, 0.5, 0.4)  # with one worker: CP-SAT for small problems, local search, CP-SAT


class Portfolio(Solver):
    """Whatever takes the problem, together."""

    proves = True

    def members(self, problem: Problem) -> tuple[list[str], list[str], list[str]]:
        """Names of (rules, local searches, exact solvers) that take a problem."""
        from rota.worlds.shop.solvers import SOLVERS, solver

        def takers(names: tuple[str, ...]) -> list[str]:
            known = [name for name in names if name.partition(":")[0] in SOLVERS]
            return [name for name in known if solver(name).refuses(problem) is None]

        return takers(RULES), takers(LOCAL), takers(("cpsat",))

    def refuses(self, problem: Problem) -> str | None:
        if any(self.members(problem)):
            return None
        return "no solver takes this problem; `rota list solvers` says what each one takes"

    def prepare(self, problem: Problem) -> None:
        from rota.worlds.shop.solvers import solver

        for name in chain(*self.members(problem)):
            solver(name).prepare(problem)

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        rules, local, exact = self.members(problem)
        best = _Best(problem, start)
        for name in rules:
            yield from best.follow(name, replace(limit, work=1, workers=1), share=None)
        if limit.work is not None or limit.workers == 1:
            yield from self._in_turn(best, local[:1], exact, limit)
        else:
            yield from self._together(best, local[:1], exact, limit)

    def _in_turn(self, best: "_Best", local: list[str], exact: list[str], limit: Limit) -> Steps:
        if limit.work is not None:
            for name in local:
                work = max(limit.work // REPAIRS, 1) if name == "lns" else limit.work
                yield from best.follow(name, replace(limit, work=work), share=None)
            for name in exact:
                yield from best.follow(name, replace(limit, work=max(limit.work // SHARE_OF_WORK, 1)), share=None)
            return
        turns = zip((exact, local, exact), TURN, strict=True) if local and exact else ((local or exact, 1.0),)
        for names, share in turns:
            for name in names:
                yield from best.follow(name, limit, share=share)

    def _together(self, best: "_Best", local: list[str], exact: list[str], limit: Limit) -> Steps:
        names = local + exact
        news: Queue[tuple[str, Step | BaseException | None]] = Queue()
        stop = Event()
        shares = _shares(limit.workers, len(names))
        threads = []
        for name, workers in zip(names, shares, strict=True):
            steps = best.start(name, replace(limit, workers=workers))
            threads.append(Thread(target=_run, args=(name, steps, best, news, stop), daemon=True))
        with ExitStack() as stack:
            for thread in threads:
                thread.start()
                stack.callback(thread.join)
            stack.callback(stop.set)
            working = len(threads)
            while working:
                try:
                    name, step = news.get(timeout=HEARTBEAT)
                except Empty:
                    yield Step()
                    continue
                if step is None:
                    working -= 1
                elif isinstance(step, BaseException):
                    raise step
                else:
                    best.offer((yield replace(step, by=name, work=0)))


def _shares(workers: int, members: int) -> list[int]:
    """Workers of each member: alike, at least one."""
    return [max(workers // members + (k < workers % members), 1) for k in range(members)]


def _run(
    name: str, steps: Steps, best: "_Best", news: "Queue[tuple[str, Step | BaseException | None]]", stop: Event
) -> None:
    """A member in its thread: news out, better schedules in."""
    told: Schedule | None = best.schedule
    try:
        step = next(steps)
        while not stop.is_set():
            if step.schedule is not None and best.offer(step.schedule):
                told = best.schedule
            if step != Step(work=step.work):
                news.put((name, step))
            better = best.schedule if best.schedule is not told else None
            told = best.schedule
            step = steps.send(better)
    except StopIteration:
        pass
    except BaseException as error:  # it belongs to whoever waits for the news
        news.put((name, error))
    finally:
        steps.close()
        news.put((name, None))


class _Best:
    """The best schedule that any member has found, or was told of."""

    def __init__(self, problem: Problem, schedule: Schedule | None) -> None:
        self.problem = problem
        self.schedule = schedule
        self.value = None if schedule is None else schedule.value(problem)

    def offer(self, schedule: Schedule | None) -> bool:
        """Keep a schedule if it is better. Assignments are single, so that threads need no lock: at worst a schedule is told twice."""
        if schedule is None:
            return False
        value = schedule.value(self.problem)
        if self.value is not None and value >= self.value:
            return False
        self.schedule, self.value = schedule, value
        return True

    def start(self, name: str, limit: Limit) -> Steps:
        """A member's search from the best so far."""
        from rota.worlds.shop.solvers import solver

        return solver(name).solve(self.problem, limit, self.schedule)

    def follow(self, name: str, limit: Limit, share: float | None) -> Iterator[Step]:
        """One member alone, for a share of the time."""
        import time

        begin = time.monotonic()
        steps = self.start(name, limit)
        try:
            for step in steps:
                self.offer(step.schedule)
                yield replace(step, by=name)
                if step.finished or (share is not None and time.monotonic() - begin > share * limit.seconds):
                    return
        except MissingExtraError as error:
            yield Step(note=f"{name} is left out: {error}", by=name)
        finally:
            steps.close()
