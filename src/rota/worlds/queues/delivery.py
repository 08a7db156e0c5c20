"""Customers who want to be served at a time of their own: whom to admit, whom to serve now, whom to give away, at the least cost a period.

The model is that of Boran, Cavdar and Isik, Queueing systems with preferred service delivery times and multiple customer classes (arXiv 2203.01433): a Markov
decision process in discrete time over who waits, by class and by periods left to the preferred time. Chosen here, where it can be had in several
ways: at most one arrival a period; costs are linear in the distance from the preferred time; a customer who is `latest` periods late at the end of a period is
outsourced then; outsourcing earlier is allowed where it makes room. A class does not change while it waits.

`solve` finds the policy of least average cost by relative value iteration: exactly for few customers, and on `aggregated` queues, where
neighbouring periods are one, for more. `play` runs any policy on the true queue.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations_with_replacement, product
from math import comb

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError

Customer = tuple[int, int]  # class, periods (or groups of periods) left to the preferred time; negative: late
Waiting = tuple[Customer, ...]  # sorted
Action = tuple[Waiting, Waiting]  # served now, outsourced now
LARGEST = 200_000  # states


@dataclass(frozen=True)
class DeliveryQueue:
    """A queue with preferred times.

    Attributes:
        arrivals: Probability that a customer arrives in a period, shape (classes, leads): column l is a preferred time l periods ahead. The sum may be
            below 1, the rest is no arrival.
        early: Cost a period of being served before the preferred time, by class.
        late: Cost a period of being served after it, by class.
        reject: Cost of turning a customer away, by class.
        outsource: Cost of giving an admitted one away, by class.
        capacity: Customers that can be served in a period.
        latest: Periods late at which an admitted customer is outsourced.
        room: Customers that may wait, the one just admitted included.
        width: Periods in a group; 1: the queue itself. Set by `aggregated`.
    """

    arrivals: tuple[tuple[float, ...], ...]
    early: tuple[float, ...]
    late: tuple[float, ...]
    reject: tuple[float, ...]
    outsource: tuple[float, ...]
    capacity: int = 1
    latest: int = 2
    room: int = 4
    width: int = field(default=1, repr=False)

    def __post_init__(self) -> None:
        chances = np.array(self.arrivals, np.float64)
        if chances.ndim != 2 or not chances.size:
            raise InputError("arrivals: must be a row of probabilities for each class, all of one length")
        if (chances < 0).any() or not chances.sum() <= 1.0 + 1e-12:
            raise InputError(f"arrivals: must be probabilities with a sum of at most 1, found {chances.sum():g}")
        for name in ("early", "late", "reject", "outsource"):
            costs = getattr(self, name)
            if len(costs) != len(self.arrivals) or not all(cost >= 0 for cost in costs):
                raise InputError(
                    f"{name}: must be a cost of at least 0 for each of {len(self.arrivals)} classes, found {costs}"
                )
        for name, least in (("capacity", 1), ("latest", 0), ("room", 1), ("width", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: must be at least {least}, found {getattr(self, name)}")
        kinds = len(self.arrivals) * (self.leads + self.last + 1)
        if comb(kinds + self.room, self.room) > LARGEST:
            raise InputError(
                f"room {self.room} with {kinds} kinds of customers gives {comb(kinds + self.room, self.room):,} states, at most {LARGEST:,} "
                "are solved; aggregate periods or lower the room"
            )

    @property
    def leads(self) -> int:
        """The farthest group of periods."""
        return (len(self.arrivals[0]) - 1) // self.width

    @property
    def last(self) -> int:
        """The latest group: who should leave it is outsourced."""
        return -(-self.latest // self.width)

    def aggregated(self, width: int) -> "DeliveryQueue":
        """The queue that sees `width` neighbouring periods as one, and in which a customer leaves a group with probability 1 / width a period."""
        return replace(self, width=width)

    def group(self, lead: int) -> int:
        """The group of a customer with so many periods left; 0 is the preferred period and what follows it within the group."""
        return -(-lead // self.width) if lead < 0 else lead // self.width

    def cost_of(self, customer: Customer) -> float:
        """Cost of serving a customer now; for a group, of its middle."""
        kind, lead = customer
        periods = abs(lead) * self.width + (self.width - 1) / 2 * (lead > 0)
        return periods * (self.early if lead > 0 else self.late)[kind]

    @cached_property
    def coming(self) -> dict[Customer, float]:
        """Probability of each arrival, by class and group."""
        found: defaultdict[Customer, float] = defaultdict(float)
        for kind, row in enumerate(self.arrivals):
            for lead, chance in enumerate(row):
                if chance > 0:
                    found[kind, self.group(lead)] += chance
        return dict(found)

    def actions(self, waiting: Waiting) -> Iterator[Action]:
        """Every choice: whom to serve, up to the capacity, and whom else to outsource."""
        for count in range(min(self.capacity, len(waiting)) + 1):
            for served in _choices(waiting, count):
                rest = _without(waiting, served)
                for others in range(len(rest) + 1):
                    for outsourced in _choices(rest, others):
                        yield served, outsourced

    def price(self, action: Action) -> float:
        """Cost of an action."""
        served, outsourced = action
        return sum(map(self.cost_of, served)) + sum(self.outsource[kind] for kind, _ in outsourced)

    def after(self, waiting: Waiting) -> list[tuple[Waiting, float, float]]:
        """A period passes: (who waits then, probability, cost of those who had to be outsourced)."""
        leave = 1.0 / self.width
        ways: dict[tuple[Waiting, float], float] = {((), 0.0): 1.0}
        for kind, lead in waiting:
            grown: defaultdict[tuple[Waiting, float], float] = defaultdict(float)
            for (before, paid), chance in ways.items():
                if lead == -self.last:
                    grown[before, paid + self.outsource[kind]] += chance * leave
                else:
                    grown[_with(before, (kind, lead - 1)), paid] += chance * leave
                if leave < 1.0:
                    grown[_with(before, (kind, lead)), paid] += chance * (1.0 - leave)
            ways = dict(grown)
        return [(then, chance, paid) for (then, paid), chance in ways.items()]


@dataclass(frozen=True)
class Plan:
    """A stationary policy: whom to admit, and what to do with those who wait."""

    queue: DeliveryQueue
    cost: float  # average a period, in the queue that it was made for
    admits: Mapping[tuple[Waiting, Customer], bool]
    acts: Mapping[Waiting, Action]

    def admit(self, waiting: Waiting, customer: Customer) -> bool:
        """Whether to admit a customer of the true queue."""
        if len(waiting) >= self.queue.room:
            return False
        return self.admits[self._seen(waiting), (customer[0], self.queue.group(customer[1]))]

    def act(self, waiting: Waiting) -> Action:
        """Whom of the true queue to serve and to outsource; of a group, those nearest to their end first."""
        left = list(waiting)

        def take(kinds: Waiting) -> Waiting:
            taken = []
            for kind, group in kinds:
                fits = [each for each in left if each[0] == kind and self.queue.group(each[1]) == group]
                taken.append(min(fits, key=lambda each: each[1]))
                left.remove(taken[-1])
            return tuple(sorted(taken))

        served, outsourced = self.acts[self._seen(waiting)]
        return take(served), take(outsourced)

    def _seen(self, waiting: Waiting) -> Waiting:
        return tuple(sorted((kind, self.queue.group(lead)) for kind, lead in waiting))


def earliest_first(queue: DeliveryQueue) -> Plan:
    """Admit while there is room; serve those whose preferred time is here or past, the latest first; outsource nobody by choice."""
    acts: dict[Waiting, Action] = {}
    states = _states(queue)
    for waiting in states:
        due = sorted((each for each in waiting if each[1] <= 0), key=lambda each: (each[1], -queue.late[each[0]]))
        acts[waiting] = tuple(sorted(due[: queue.capacity])), ()
    admits = {(waiting, each): len(waiting) < queue.room for waiting in states for each in queue.coming}
    return Plan(queue, np.nan, admits, acts)


def solve(queue: DeliveryQueue, tolerance: float = 1e-6, most: int = 20_000) -> Plan:
    """The policy of least average cost a period, by relative value iteration, to `tolerance` between its bounds.

    Raises:
        InputError: It did not settle within `most` rounds.
    """
    states = _states(queue)
    number = {waiting: index for index, waiting in enumerate(states)}
    rows: list[tuple[float, list[tuple[int, float]]]] = []  # an action each: its price, where it leads
    begins, choices = [], []
    after: dict[Waiting, tuple[float, list[tuple[int, float]]]] = {}
    for waiting in states:
        begins.append(len(rows))
        for action in queue.actions(waiting):
            rest = _without(_without(waiting, action[0]), action[1])
            if rest not in after:
                ways = queue.after(rest)
                after[rest] = sum(c * paid for _, c, paid in ways), [(number[then], c) for then, c, _ in ways]
            paid, ways_on = after[rest]
            rows.append((queue.price(action) + paid, ways_on))
            choices.append(action)
    price, moves = np.array([row[0] for row in rows]), _matrix([row[1] for row in rows], len(states))
    coming = list(queue.coming.items())
    joined = np.array([[number[_with(w, c)] if len(w) < queue.room else -1 for c, _ in coming] for w in states])
    chance = np.array([c for _, c in coming])
    turned = np.array([queue.reject[c[0]] for c, _ in coming])
    offset = np.array(begins)

    def before_arrival(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Value before an arrival from that after it."""
        refuse = values[:, None] + turned
        welcome = np.where(joined >= 0, values[joined], np.inf)
        found: npt.NDArray[np.float64] = np.minimum(refuse, welcome) @ chance + (1.0 - chance.sum()) * values
        return found

    value = np.zeros(len(states))
    for _ in range(most):
        best = np.minimum.reduceat(price + moves @ before_arrival(value), offset)
        change = best - value
        # A step of one half keeps what is periodic from swinging for ever.
        value = value + 0.5 * (change - change[0])
        if change.max() - change.min() < tolerance:
            break
    else:
        raise InputError(f"value iteration did not settle to {tolerance:g} in {most} rounds; raise either")
    worth = price + moves @ before_arrival(value)
    ends = np.append(offset[1:], len(rows))
    acts = {w: choices[a + int(np.argmin(worth[a:b]))] for w, a, b in zip(states, offset, ends, strict=True)}
    welcome = np.where(joined >= 0, value[joined], np.inf) <= value[:, None] + turned
    admits = {(w, c): bool(welcome[i, k]) for i, w in enumerate(states) for k, (c, _) in enumerate(coming)}
    return Plan(queue, float((change.max() + change.min()) / 2), admits, acts)


def play(
    queue: DeliveryQueue, plan: Plan, periods: int, draw: Callable[[int], npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """Cost of each period when a plan, made for this queue or an aggregated one, runs on it.

    Args:
        queue: The true queue (`width` 1).
        plan: What decides.
        periods: How many.
        draw: `periods` uniform numbers, such as `numpy.random.default_rng(0).random`: the same ones give the same arrivals under every plan.
    """
    if queue.width != 1:
        raise InputError("play: needs the queue itself, this one is aggregated")
    kinds, ends = list(queue.coming), np.cumsum(list(queue.coming.values()))
    arrivals = np.searchsorted(ends, draw(periods), side="right")
    costs = np.zeros(periods)
    waiting: Waiting = ()
    for period, arrival in enumerate(arrivals.tolist()):
        if arrival < len(kinds):
            if plan.admit(waiting, kinds[arrival]):
                waiting = _with(waiting, kinds[arrival])
            else:
                costs[period] += queue.reject[kinds[arrival][0]]
        action = plan.act(waiting)
        costs[period] += queue.price(action)
        ((waiting, _, paid),) = queue.after(_without(_without(waiting, action[0]), action[1]))
        costs[period] += paid
    return costs


def _choices(waiting: Waiting, count: int) -> list[Waiting]:
    """The different ways to take so many."""
    have = Counter(waiting)
    return [
        w
        for w in combinations_with_replacement(sorted(have), count)
        if all(have[c] >= n for c, n in Counter(w).items())
    ]


def _without(waiting: Waiting, gone: Waiting) -> Waiting:
    return tuple(sorted((Counter(waiting) - Counter(gone)).elements()))


def _with(waiting: Waiting, customer: Customer) -> Waiting:
    return tuple(sorted((*waiting, customer)))


def _states(queue: DeliveryQueue) -> list[Waiting]:
    kinds = list(product(range(len(queue.arrivals)), range(-queue.last, queue.leads + 1)))
    return [waiting for size in range(queue.room + 1) for waiting in combinations_with_replacement(kinds, size)]


def _matrix(rows: list[list[tuple[int, float]]], columns: int) -> "npt.NDArray[np.float64]":
    """Rows of (column, probability) as a sparse matrix."""
    from scipy.sparse import csr_array

    ends = np.cumsum([0, *map(len, rows)])
    cells = [cell for row in rows for cell in row]
    values, at = [c for _, c in cells], [column for column, _ in cells]
    return csr_array((values, at, ends), shape=(len(rows), columns))  # type: ignore[return-value]
