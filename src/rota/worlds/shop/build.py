"""A builder for problems: jobs, machines, operations and modes are added one by one and referred to by their number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from rota.kernel.errors import InputError
from rota.worlds.shop.calendars import merged
from rota.worlds.shop.model import (
    LONGEST,
    MACHINE,
    NEVER,
    NON_RENEWABLE,
    PRECEDENCE_KINDS,
    RENEWABLE,
    Jobs,
    Modes,
    Operations,
    Precedences,
    Problem,
    Resources,
    Setups,
)
from rota.worlds.shop.objective import Objective


@dataclass
class ProblemBuilder:
    """Collects rows and makes a `Problem`; every `add_` returns the number of what it added.

    Set `line` to the line of the file being read: errors of what is added then name it.
    """

    name: str = ""
    source: str = ""
    objective: Objective = field(default_factory=Objective)
    permutation: bool = False
    zero_durations: bool = False  # work on a resource may take no time, and is noticed; else it is an error
    line: int | None = None

    def __post_init__(self) -> None:
        self._jobs: list[tuple[str, int, int, int, int, bool]] = []
        self._sizes: list[int] = []  # operations of each job so far
        self._resources: list[tuple[str, int, int, bool, bool]] = []
        self._breaks: list[list[tuple[int, int]]] = []
        self._operations: list[tuple[str, int, int, int]] = []
        self._modes: list[tuple[int, int, tuple[tuple[int, int, int], ...]]] = []
        self._links: list[tuple[int, int, int, int, int]] = []
        self._setups: dict[int, tuple[Sequence[Sequence[int]], Sequence[int]]] = {}
        self._transport: list[tuple[int, int, int]] = []
        self._frozen: dict[int, tuple[int, int, int]] = {}
        self._lines: dict[tuple[str, int], int] = {}
        self.notices: list[str] = []  # what the reader noticed, one line each

    def _note(self, what: str, index: int) -> int:
        if self.line is not None:
            self._lines[what, index] = self.line
        return index

    def _place(self) -> str:
        return (self.source or self.name or "problem") + (f", line {self.line}" if self.line is not None else "")

    def _integer(self, value: int, what: str) -> int:
        """A time or amount as an exact integer, small enough to add up."""
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise InputError(
                f"{self._place()}: {what} must be an integer, found {value!r}; choose a finer unit of time"
            )
        if abs(int(value)) > LONGEST and value != NEVER:
            raise InputError(f"{self._place()}: {what} is {value}: times overflow, at most {LONGEST} is allowed")
        return int(value)

    def add_job(
        self,
        name: str = "",
        *,
        release: int = 0,
        due: int | None = None,
        deadline: int | None = None,
        weight: int = 1,
        one_at_a_time: bool = False,
    ) -> int:
        """A job. `one_at_a_time`: its operations never overlap, in whatever order they run (open shop)."""
        number = len(self._jobs)
        name = name or f"job{number}"
        self._jobs.append(
            (
                name,
                self._integer(release, f"release of job {name}"),
                NEVER if due is None else self._integer(due, f"due date of job {name}"),
                NEVER if deadline is None else self._integer(deadline, f"deadline of job {name}"),
                self._integer(weight, f"weight of job {name}"),
                one_at_a_time,
            )
        )
        self._sizes.append(0)
        return self._note("job", number)

    def _add_resource(self, name: str, kind: int, capacity: int, blocking: bool, interruptible: bool) -> int:
        self._resources.append((name, kind, capacity, blocking, interruptible))
        self._breaks.append([])
        return self._note("resource", len(self._resources) - 1)

    def add_machine(self, name: str = "", *, blocking: bool = False, interruptible: bool = False) -> int:
        """A machine: one operation at a time. `interruptible`: work pauses in its breaks instead of avoiding them."""
        return self._add_resource(name or f"machine{len(self._resources)}", MACHINE, 1, blocking, interruptible)

    def add_resource(
        self, name: str = "", *, capacity: int, renewable: bool = True, interruptible: bool = False
    ) -> int:
        """A resource of `capacity` units at every moment, or for the whole plan where it is not `renewable`."""
        name = name or f"resource{len(self._resources)}"
        units = self._integer(capacity, f"capacity of {name}")
        return self._add_resource(name, RENEWABLE if renewable else NON_RENEWABLE, units, False, interruptible)

    def add_breaks(
        self,
        resource: int,
        breaks: Sequence[tuple[int, int]],
        *,
        every: int | None = None,
        until: int | None = None,
    ) -> None:
        """Times [start, end) at which a resource is away; a missing end (NEVER) closes it for good.

        With `every`, the breaks repeat with that period up to `until`, where the calendar ends: the resource is closed from then on.
        """
        self._known(resource, len(self._resources), "machine or resource")
        if (every is None) != (until is None):
            raise InputError(f"{self._place()}: breaks that repeat need both every and until")
        name = self._resources[resource][0]
        spans = [(self._integer(a, f"break of {name}"), self._integer(b, f"break of {name}")) for a, b in breaks]
        if every is not None and until is not None:
            if every < 1 or any(not 0 <= start < end <= every for start, end in spans):
                raise InputError(
                    f"{self._place()}: breaks of {name} that repeat every {every} must lie within 0..{every}"
                )
            if until // every > 100_000:
                raise InputError(
                    f"{self._place()}: breaks of {name} repeat {until // every} times, at most 100000 can be kept"
                )
            repeated = [(at + a, min(at + b, until)) for at in range(0, until, every) for a, b in spans]
            spans = [*((a, b) for a, b in repeated if a < b), (until, NEVER)]
        self._breaks[resource].extend(spans)

    def add_operation(self, job: int, name: str = "", *, release: int = 0, deadline: int | None = None) -> int:
        """An operation of a job. It needs at least one mode (`add_mode`)."""
        self._known(job, len(self._jobs), "job")
        number = len(self._operations)
        name = name or f"{self._jobs[job][0]}.{self._sizes[job]}"
        self._sizes[job] += 1
        late = NEVER if deadline is None else self._integer(deadline, f"deadline of operation {name}")
        self._operations.append((name, job, self._integer(release, f"release of operation {name}"), late))
        return self._note("operation", number)

    def operation_name(self, operation: int) -> str:
        """The name of an operation that was added."""
        return self._operations[operation][0]

    def add_mode(
        self,
        operation: int,
        duration: int,
        machines: int | Sequence[int] = (),
        *,
        demands: Mapping[int, int] | None = None,
        family: int = -1,
    ) -> int:
        """A way to do an operation: how long it takes, and which machines and how much of which resources it holds.

        `family` is its setup family on every one of `machines`. Demands of 0 are left out.
        """
        self._known(operation, len(self._operations), "operation")
        used = [machines] if isinstance(machines, int | np.integer) else list(machines)
        named = f"operation {self._operations[operation][0]}"
        for machine in used:
            self._known(int(machine), len(self._resources), "machine", f"{named}: ")
        rows = [(int(machine), 1, family) for machine in used]
        for resource, amount in (demands or {}).items():
            self._known(resource, len(self._resources), "resource", f"{named}: ")
            if amount != 0:
                rows.append((resource, self._integer(amount, f"demand of {named}"), -1))
        time = self._integer(duration, f"duration of {named}")
        if time == 0 and rows:
            if not self.zero_durations:
                raise InputError(
                    f"{self._place()}: {named} has duration 0; only a milestone, which needs nothing, may have 0"
                )
            self.notices.append(
                f"{self._place()}: {named} has duration 0: it holds its place in the order and takes no time"
            )
        self._modes.append((operation, time, tuple(rows)))
        return self._note("mode", len(self._modes) - 1)

    def add_precedence(
        self, first: int, second: int, *, kind: str = "finish_start", least: int = 0, most: int | None = None
    ) -> int:
        """`least <= (start or finish of second) - (start or finish of first) <= most`, see `model.PRECEDENCE_KINDS`."""
        if kind not in PRECEDENCE_KINDS:
            raise InputError(
                f"{self._place()}: precedence kind '{kind}' does not exist (known: {', '.join(PRECEDENCE_KINDS)})"
            )
        for operation in (first, second):
            self._known(operation, len(self._operations), "operation")
        upper = NEVER if most is None else self._integer(most, "most lag")
        self._links.append((first, second, PRECEDENCE_KINDS.index(kind), self._integer(least, "least lag"), upper))
        return self._note("precedence", len(self._links) - 1)

    def add_chain(self, operations: Sequence[int], *, most: int | None = None) -> None:
        """A finish-start precedence between each operation and the next; `most=0`: no-wait."""
        for first, second in pairwise(operations):
            self.add_precedence(first, second, most=most)

    def set_setups(self, machine: int, times: Sequence[Sequence[int]], initial: Sequence[int] | None = None) -> None:
        """The setup times of a machine, from family (row) to family (column), and before its first work."""
        self._known(machine, len(self._resources), "machine")
        size, name = len(times), self._resources[machine][0]
        if self._resources[machine][1] != MACHINE:
            raise InputError(f"{self._place()}: {name} is not a machine; only machines have setups")
        if any(len(row) != size for row in times) or (initial is not None and len(initial) != size):
            raise InputError(
                f"{self._place()}: setups of {name} must be square, {size} families give {size} rows of {size}"
            )
        rows = [[self._integer(x, f"setup of {name}") for x in row] for row in times]
        self._setups[machine] = (rows, [self._integer(x, f"setup of {name}") for x in initial or [0] * size])

    def add_transport(self, first: int, second: int, time: int) -> None:
        """The time it takes to move a job from one machine to another (one direction)."""
        for machine in (first, second):
            self._known(machine, len(self._resources), "machine")
        self._transport.append((first, second, self._integer(time, "transport time")))

    def freeze(self, operation: int, mode: int, start: int, end: int | None = None) -> None:
        """Mark an operation as begun: in this mode at this time; `end` where it differs from the plan."""
        self._known(operation, len(self._operations), "operation")
        self._known(mode, len(self._modes), "mode")
        if self._modes[mode][0] != operation:
            name = self._operations[operation][0]
            raise InputError(
                f"{self._place()}: operation {name} is frozen in mode {mode}, which is not one of its modes"
            )
        self._frozen[operation] = (
            mode,
            self._integer(start, "start"),
            -1 if end is None else self._integer(end, "end"),
        )

    def _known(self, number: int, count: int, what: str, prefix: str = "") -> None:
        if not 0 <= number < count:
            known = f"{what}s are 0..{count - 1}" if count else f"there is no {what} yet"
            raise InputError(f"{self._place()}: {prefix}{what} {number} does not exist ({known})")

    def build(self) -> Problem:
        """The finished problem. Raises InputError, one line, where a rule of the model is broken."""
        order = sorted(range(len(self._modes)), key=lambda mode: self._modes[mode][0])  # stable
        place = {old: new for new, old in enumerate(order)}
        lines = {(what, place[row] if what == "mode" else row): line for (what, row), line in self._lines.items()}
        transport = np.zeros((len(self._resources),) * 2, np.int64)
        for first, second, time in self._transport:
            transport[first, second] = time
        return Problem(
            jobs=Jobs(*_named_columns(self._jobs, 6)),
            resources=self._resource_table(),
            operations=self._operation_table(place),
            modes=self._mode_table(order),
            precedences=Precedences(*_columns(self._links, 5)),
            setups=self._setup_table(),
            transport=transport,
            permutation=self.permutation,
            objective=self.objective,
            name=self.name,
            source=self.source,
            lines=lines,
            notices=tuple(self.notices),
        )

    def _resource_table(self) -> Resources:
        breaks = [merged(each) for each in self._breaks]
        flat = [span for each in breaks for span in each]
        names, kind, capacity, blocking, interruptible = _named_columns(self._resources, 5)
        offsets = np.cumsum([0, *map(len, breaks)])
        first, last = _columns(flat, 2)
        return Resources(names, kind, capacity, blocking, interruptible, offsets, first, last)

    def _operation_table(self, place: Mapping[int, int]) -> Operations:
        frozen = [self._frozen.get(each, (-1, -1, -1)) for each in range(len(self._operations))]
        modes = [place.get(mode, -1) for mode, _, _ in frozen]
        rows = [
            (*row, mode, start, end) for row, mode, (_, start, end) in zip(self._operations, modes, frozen, strict=True)
        ]
        names, *rest = _named_columns(rows, 7)
        return Operations(names, *rest)

    def _mode_table(self, order: Sequence[int]) -> Modes:
        chosen = [self._modes[each] for each in order]
        demands = [row for _, _, rows in chosen for row in rows]
        offsets = np.cumsum([0, *(len(rows) for _, _, rows in chosen)])
        operation, duration = _columns([each[:2] for each in chosen], 2)
        resource, amount, family = _columns(demands, 3)
        return Modes(operation, duration, offsets, resource, amount, family)

    def _setup_table(self) -> Setups:
        count = len(self._resources)
        families = np.array([len(self._setups[r][0]) if r in self._setups else 0 for r in range(count)], np.int64)
        times = [x for r in sorted(self._setups) for row in self._setups[r][0] for x in row]
        initial = [x for r in sorted(self._setups) for x in self._setups[r][1]]
        squares, starts = (np.cumsum([0, *sizes]) for sizes in (families * families, families))
        return Setups(families, squares, np.array(times, np.int64), starts, np.array(initial, np.int64))


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> Any:
    """Rows as `count` columns: names as a tuple, numbers as an array."""
    columns = list(zip(*rows, strict=True)) or [()] * count
    return [column if column and isinstance(column[0], str) else np.array(column, np.int64) for column in columns]


def _named_columns(rows: Sequence[tuple[Any, ...]], count: int) -> Any:
    """The same where the first column is names, also when there are no rows."""
    columns = _columns(rows, count)
    return columns if rows else [(), *columns[1:]]
