"""The four shapes of decision, and the system that combines them.

A world stops when it has a question, shows a table and takes a vector back:

=======  =========================  ==============================  ===============================================
shape    question                   rows of the table               answer
=======  =========================  ==============================  ===============================================
order    who goes first?            jobs that compete               a key per row, smallest first; inf = not now
place    where does this job go?    hosts that could take it        a cost per row, smallest wins; inf = impossible
allot    how much does each get?    claims on a budget, in order    an amount per row, within the budget
plan     what is the schedule?      a problem, a limit, a start     schedules with value, bound and status
=======  =========================  ==============================  ===============================================

Ties are broken by the world, always the same way: equal keys by release, then id; equal costs by the fewest decisions so
far, then id. State of a policy changes only in its hooks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from rota.kernel.errors import PolicyError
from rota.kernel.tables import Claims, FloatColumn, Hosts, IntColumn, Jobs


class Policy:
    """What the four shapes share: declared reads, a generator of its own, and hooks. Subclasses are dataclasses.

    Attributes:
        reads: Job columns that the policy may see. Ask the instance: a parameter may decide what it reads.
        source: Where it was published, for lists; where it is empty they show the sentence of the module's text that is a reference.
    """

    reads: tuple[str, ...] = ()
    source: ClassVar[str] = ""

    def bind(self, rng: np.random.Generator) -> None:
        """Receive the policy's own keyed generator, once, before a run."""

    def supports(self, world: str) -> str | None:
        """None where the policy applies, otherwise in words why it does not."""
        return None

    # Hooks, called in batches before the next question. `now` is seconds since the start of the run.
    def on_arrival(self, job: int, now: float) -> None:
        """A job arrived."""

    def on_start(self, job: int, host: int, now: float) -> None:
        """A job began (or began again) to be served at a host."""

    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        """Jobs received service since the last call; `deltas` in the world's unit of service."""

    def on_preempt(self, job: int, host: int, now: float) -> None:
        """A running job was displaced."""

    def on_finish(self, job: int, host: int, now: float) -> None:
        """A job is done."""

    def on_leave(self, job: int, reason: str, now: float) -> None:
        """A job left without being done."""

    def on_tool_return(self, job: int, now: float) -> None:
        """A job came back from a step outside the system."""

    def on_refresh(self, now: float) -> None:
        """Stale columns were refreshed."""

    def on_host(self, host: int, up: bool, now: float) -> None:
        """A host came or went."""


HOOKS = tuple(name for name in vars(Policy) if name.startswith("on_"))


def hooks(policy: Policy) -> tuple[str, ...]:
    """The hooks that a policy overrides: a world need not call the others."""
    return tuple(name for name in HOOKS if getattr(type(policy), name) is not getattr(Policy, name))


@dataclass(frozen=True)
class Rank:
    """Keys that depend on nothing that moves but a job's own attained service, in pieces.

    In piece p, while ``attained < until[row, p]``, the key is ``(level[row, p], start[row, p] + slope[p] * attained)``. A world that
    knows a rank need not ask again. Scully, Harchol-Balter and Scheller-Wolf, SOAP: One clean analysis of all age-based
    scheduling policies, 2018.

    Attributes:
        until, level, start: shape ``(rows, pieces)``, or ``(1, pieces)`` when all jobs have the same; the last `until` is inf.
        slope: shape ``(pieces,)``, change of the key for each second of service; never positive, unless equals share.
    """

    until: FloatColumn
    level: FloatColumn
    start: FloatColumn
    slope: FloatColumn

    @classmethod
    def line(cls, start: FloatColumn, slope: float) -> "Rank":
        """One piece: ``start + slope * attained``."""
        column = np.asarray(start, np.float64).reshape(-1, 1)
        return cls(np.full_like(column, np.inf), np.zeros_like(column), column, np.array([slope]))

    def at(self, attained: FloatColumn) -> FloatColumn:
        """The keys (level, value) of jobs that have received `attained` seconds of service, shape ``(rows, 2)``."""
        rows = np.arange(len(attained)) if len(self.until) > 1 else np.zeros(len(attained), np.int64)
        piece = (attained[:, None] >= self.until[rows]).sum(axis=1)
        return np.column_stack([self.level[rows, piece], self.start[rows, piece] + self.slope[piece] * attained])


class Order(Policy):
    """Who goes first?

    A subclass gives `keys`, or `rank` where keys follow from attained service alone (then it reads `attained`), or both if they agree.

    Attributes:
        asked: ``"arrival"``: keys never change after arrival; ``"decision"``: once for each decision; ``"pick"``: again after each pick.
        preemptive: A running job may be displaced by a smaller key.
        ties: ``"share"``: equal keys share a server; ``"break"``: by release, then id.
    """

    asked: ClassVar[Literal["arrival", "decision", "pick"]] = "decision"
    preemptive: ClassVar[bool] = False
    ties: ClassVar[Literal["break", "share"]] = "break"

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        """Keys, shape ``(rows,)`` or ``(rows, k)`` compared lexicographically; smallest first, ``inf`` = not now."""
        rank = self.rank(jobs)
        if rank is None:
            raise NotImplementedError(f"{type(self).__name__} defines no keys")
        return rank.at(jobs.attained)

    def rank(self, jobs: Jobs) -> Rank | None:
        """The keys as functions of attained service, where they are that. Must not depend on what `jobs` have attained so far."""
        return None

    def review(self, jobs: Jobs, now: float) -> float:
        """The next time at which the answer changes without an event, ``inf`` when none does."""
        return float("inf")


class Place(Policy):
    """Where does this job go?

    A place whose cost is just a column of the hosts names it in `cost_column` and writes no `costs`: the world then reads the
    column itself and need not ask. A weighted sum of columns stands in `cost_terms`. A place that looks at some hosts only says which in `sample`.

    Attributes:
        reads: Host columns that the policy may see.
        reads_job: Columns of the job to be placed (the table has one row a job).
        cost_column: The host column that is the cost; empty: all hosts cost the same, or `cost_terms` says what they cost.
        cost_terms: Host columns and their weights, in the order in which they are added.
        draws: Whether its costs are ``inf`` for all but a few hosts that it draws (so are those of a place with a `sample`): where none of these can
            serve the job it is asked again, about those that can.
    """

    reads_job: ClassVar[tuple[str, ...]] = ()
    draws: ClassVar[bool] = False
    cost_column: str = ""
    cost_terms: Mapping[str, float] = MappingProxyType({})

    @property
    def terms(self) -> Mapping[str, float]:
        """What the cost is made of, where it is made of columns."""
        return {self.cost_column: 1.0} if self.cost_column else self.cost_terms

    def sample(self, jobs: Jobs, hosts: Hosts) -> IntColumn | None:
        """Ids of the candidate hosts of each job, shape ``(jobs, d)``, independent of their state; None: every host."""
        return None

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        """Costs, shape ``(hosts,)`` for one job or ``(jobs, hosts)`` for many; ``inf`` = impossible, all ``inf`` = the job waits."""
        costs = np.zeros(len(hosts))
        for column, weight in self.terms.items():
            costs += weight * getattr(hosts, column)
        candidates = self.sample(jobs, hosts)
        if candidates is None:
            return costs
        chosen = (candidates[:, :, None] == hosts.id).any(axis=1)
        masked = np.where(chosen, costs, np.inf)
        return masked[0] if len(jobs) == 1 else masked


class Allot(Policy):
    """How much does each get?"""

    def amounts(self, claims: Claims, budget: Mapping[str, float], now: float) -> FloatColumn:
        """Amounts, shape ``(rows,)`` or ``(rows, k)``, within the first limit of `budget`; the world enforces the others row by row."""
        raise NotImplementedError(f"{type(self).__name__} defines no amounts")

    def review(self, claims: Claims, now: float) -> float:
        """The next time at which the answer changes without an event, ``inf`` when none does."""
        return float("inf")


class Plan(Policy):
    """What is the whole schedule?"""

    def solve(self, problem: Any, limit: float, start: Any | None = None) -> Iterator[Any]:
        """Yield incumbents with value, bound and status, the best last, within a work limit; `start`: frozen part and incumbent."""
        raise NotImplementedError(f"{type(self).__name__} defines no solve")


@dataclass
class Every:
    """A decision taken on a rhythm: every so many seconds, who (an order), to where (a place), at most so many at once."""

    every: float
    who: Order
    where: Place
    at_most: int = 1


@dataclass
class System:
    """A scheduler that decides several things: one policy a role. A plain Order or Place is a system of one role.

    The roles are free to share state through the system that built them.
    """

    roles: dict[str, Policy | Every] = field(default_factory=dict)

    ROLES: ClassVar[tuple[str, ...]] = (
        "route", "hold", "order", "share", "admit", "batch", "victim", "retain", "migrate", "repack", "scale", "plan",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for role in self.roles:
            if role not in self.ROLES:
                raise PolicyError(f"a system has no role {role!r} (roles: {', '.join(self.ROLES)})")

    def get(self, role: str) -> Policy | Every | None:
        """The policy of a role, None when the world's default applies."""
        return self.roles.get(role)

    def policies(self) -> Iterator[tuple[str, Policy]]:
        """Every (role, policy), in the order of `ROLES`; a rhythm gives its order and its place."""
        for role in self.ROLES:
            member = self.roles.get(role)
            if isinstance(member, Every):
                yield f"{role}.who", member.who
                yield f"{role}.where", member.where
            elif member is not None:
                yield role, member


def ranked(order: Order) -> bool:
    """Whether `rank` speaks for an order: a subclass that writes new `keys` only is asked for these."""
    line = [kind for kind in type(order).__mro__ if {"rank", "keys"} & vars(kind).keys()]
    return line[0] is not Order and "rank" in vars(line[0])


def checked(answer: Any, shape: Sequence[int], policy: Policy, what: str, now: float) -> FloatColumn:
    """A policy's answer as a float64 array, after the checks that every world makes.

    Raises:
        PolicyError: wrong shape or NaN.
    """
    array = np.asarray(answer, dtype=np.float64)
    if array.shape[: len(shape)] != tuple(shape) or array.ndim > len(shape) + 1:
        raise PolicyError(
            f"{type(policy).__name__}: {what} at {now:g} s has shape {array.shape}, expected {tuple(shape)}"
        )
    if np.isnan(array).any():
        raise PolicyError(
            f"{type(policy).__name__}: {what} at {now:g} s contains NaN; answer with finite numbers or inf"
        )
    return array
