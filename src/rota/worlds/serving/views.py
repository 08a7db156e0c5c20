"""What policies may see of a run: which columns there are, and their values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Place
from rota.kernel.errors import PolicyError
from rota.kernel.tables import HOST_COLUMNS, JOB_COLUMNS, Column, Hosts, Jobs
from rota.worlds.serving import doors
from rota.worlds.serving.adapters import COLUMNS as ADAPTER_COLUMNS
from rota.worlds.serving.classes import due
from rota.worlds.serving.columns import (
    HOST_VALUES,
    LOADS,
    PAIR_COLUMNS,
    SERVING_HOST_COLUMNS,
    SERVING_JOB_COLUMNS,
)
from rota.worlds.serving.energy import Clocks
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import PrefixBlocks
from rota.worlds.serving.pools import Pools
from rota.worlds.serving.prefix_tree import prefix_groups
from rota.worlds.serving.quality import COLUMNS as CHOICE_COLUMNS
from rota.worlds.serving.questions import ALL_COLUMNS, Question, kept
from rota.worlds.serving.rounds import LEFT

if TYPE_CHECKING:
    from rota.worlds.serving.simulate import Simulation

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]

LENGTHS = ("output_tokens", "size", "remaining")  # columns that say how long an answer will be
NO_COLUMNS: Mapping[str, FloatColumn] = MappingProxyType({})


class Views:
    """The columns of one run.

    Attributes:
        codes: The row of `fixed` that has a column of requests; below 0: it moves, and the kernel looks it up.
        fixed: Columns of requests that do not change while they run, a row a column.
        by_name: What the columns of requests mean.
    """

    def __init__(self, run: "Simulation") -> None:
        self.run = run
        self.codes: dict[str, int]
        self.fixed: FloatColumn
        self.by_name: dict[str, Column]
        # By route: how often it was asked, and loads as it saw them last.
        self._late: dict[int, tuple[int, Mapping[str, FloatColumn]]] = {}
        self._asked: dict[int, Question] = {}
        self._lay_out()

    def _lay_out(self) -> None:
        run, work, rows = self.run, self.run.workload, len(self.run.workload)
        rate = run.replicas[0]
        arrives = work.arrival if not run.makes_arrivals else np.full(rows, np.inf)
        weight, slo_class = work.labels.weight, work.labels.slo_class
        fixed = {
            "priority": work.priority,
            "due": due(work) + arrives,
            "first_due": work.ttft_limit + arrives,
            "weight": np.ones(rows) if weight is None else weight,
            "slo_class": np.full(rows, -1) if slo_class is None else slo_class.index,
            "tenant": work.tenant,
            "prompt_tokens": work.prompt_tokens,
            "session": work.session,
        }
        if work.programs is not None:
            begins = np.full(int(work.programs.program.max(initial=-1)) + 1, np.inf)
            np.minimum.at(begins, work.programs.program, work.arrival)
            fixed["program"] = work.programs.program
            fixed["program_release"] = begins[work.programs.program]
            fixed["program_attained"] = fixed["path_attained"] = fixed[LEFT] = np.zeros(rows)
        if any({"prefix_group", "group_tokens"} & set(policy.reads) for policy in run.roles.policies()):
            empty = PrefixBlocks(np.zeros(rows + 1, np.int64), np.zeros(0, np.int64), 1)
            fixed["prefix_group"], fixed["group_tokens"] = prefix_groups(work.prefix or empty)
        self.by_name = {**JOB_COLUMNS, **SERVING_JOB_COLUMNS}
        moving = {
            "cached_tokens": -7,
            "attained": -6,
            "remaining": -5,
            "generated_tokens": -4,
            "prefilled_tokens": -3,
            "running": -2,
            "preemptions": -1,
        }
        if run.visible_output is None:
            del moving["remaining"]
            for name in LENGTHS:
                self.by_name[name] = Column(name, self.by_name[name].unit, self.by_name[name].meaning, "hidden")
        else:
            fixed["output_tokens"] = run.visible_output
            fixed["size"] = rate.prefill_rate * work.prompt_tokens + rate.decode_rate * run.visible_output
            for name in LENGTHS:
                column = self.by_name[name]
                self.by_name[name] = Column(name, column.unit, column.meaning, run.quality.quality, run.quality.by)
        if run.makes_arrivals:  # looked up when asked
            fixed["release"] = np.full(rows, np.nan)
        else:
            fixed["release"] = work.arrival
        self.fixed = np.ascontiguousarray(np.stack([np.asarray(column, np.float64) for column in fixed.values()]))
        self.codes = {name: position for position, name in enumerate(fixed)} | moving

    def static_table(self, reads: tuple[str, ...]) -> Jobs:
        """Columns of all requests as they are when they arrive; those that are learned meanwhile are not known yet."""
        rows = len(self.run.workload)
        values: dict[str, npt.NDArray[Any]] = {}
        learns = self.run.learns is not None
        for name in reads:
            if learns and name in LENGTHS:
                continue
            if name == "id":
                values[name] = np.arange(rows)
            elif name in self.codes and (code := self.codes[name]) >= 0:
                values[name] = self.fixed[code]
            elif name in self.codes and name != "remaining":
                values[name] = np.zeros(rows)
            elif name in self.codes:
                values[name] = self.fixed[self.codes["size"]]
        columns = self.by_name
        if learns:
            columns = columns | {name: replace(columns[name], quality="hidden", by="") for name in LENGTHS}
        return Jobs(values, columns.values(), rows=rows)

    def fixed_column(self, name: str, rows: IntColumn) -> FloatColumn | None:
        """A column of requests as it is when they arrive; None: there is no such column."""
        arrival = self.run.seconds[at.ARRIVAL, rows]
        if name == "release":
            return np.asarray(arrival)
        if self.run.makes_arrivals and name in ("due", "first_due"):  # known now that they have arrived
            limits = due(self.run.workload) if name == "due" else self.run.workload.ttft_limit
            return np.asarray(arrival + limits[rows])
        code = self.codes.get(name, -1)
        return self.fixed[code, rows] if code >= 0 else None

    def ended_table(self, own: dict[str, Any], reads: Sequence[str], job: int) -> Jobs:
        """A table of one request that has ended: `own` columns, and those that never change."""
        values = {name: np.array([value]) for name, value in own.items()}
        for name in reads:
            if name not in values and self.codes.get(name, -1) >= 0:
                values[name] = self.fixed[self.codes[name], job : job + 1]
        return Jobs(values, self.by_name.values(), rows=1)

    def tell_program(self, name: str, rows: IntColumn | int, value: float | FloatColumn) -> None:
        """A column of programs changes for these requests."""
        self.fixed[self.codes[name], rows] = value

    def look_up_release(self, job: int) -> None:
        """Where requests arrive when others have ended: when this one did."""
        self.fixed[self.codes["release"], job] = self.run.seconds[at.ARRIVAL, job]

    @property
    def columns(self) -> Iterable[Column]:
        """What the columns of requests mean."""
        return self.by_name.values()

    def table(self, reads: Sequence[str]) -> Hosts:
        """Columns of all hosts that do not depend on a request."""
        columns = {**HOST_COLUMNS, **SERVING_HOST_COLUMNS}
        return Hosts(
            {name: HOST_VALUES[name](self.run) for name in reads if name in HOST_VALUES},
            columns.values(),
            rows=len(self.run.replicas),
        )

    def host_values(self, reads: Sequence[str], job: int) -> dict[str, npt.NDArray[Any]]:
        """Columns of all hosts, those that depend on a request for this one."""
        run = self.run
        hosts = {name: HOST_VALUES[name](run) for name in reads if name in HOST_VALUES}
        hosts |= {name: self._pair(PAIR_COLUMNS[name], job) for name in reads if name in PAIR_COLUMNS}
        if run.choice is not None:
            hosts |= {name: run.choice.column(name, job) for name in reads if name in CHOICE_COLUMNS}
        named = [name for name in reads if name in ADAPTER_COLUMNS]
        nothing = np.zeros(len(run.replicas))  # no request names an adapter
        return hosts | {name: run.adapters.column(name, job) if run.adapters else nothing for name in named}

    def _pair(self, column: int, job: int) -> FloatColumn:
        """A host column that depends on the request."""
        from rota.worlds.serving.kernels import fleet

        out = np.zeros(len(self.run.replicas))
        fleet.pair_column(self.run.state, column, job, out)
        return out

    def question(
        self, policy: Place | Pools | Clocks, job: int | None, more: Mapping[str, FloatColumn] = NO_COLUMNS
    ) -> tuple[Jobs, Hosts]:
        """The tables that a policy sees of a request (None: of none) and of all hosts; `more`: columns of hosts that somebody else keeps."""
        question = self._asked.get(id(policy))
        if question is None:
            question = self._asked[id(policy)] = Question(self.run, policy, tuple(more))
        return question.ask(job, more)

    def costs(self, route: Place, job: int, now: float, able: npt.NDArray[np.bool_] | None = None) -> FloatColumn:
        """What a route answers for a request. Raises PolicyError where that is no answer.

        One that draws its candidates, and has drawn none that can serve the request, is asked again about those that can.

        Args:
            able: Which hosts these are; None: those that are open and could ever serve it.
        """
        old = self._view(route) if self.run.renewed > 1 else NO_COLUMNS
        jobs, hosts = self.question(route, job, old)
        costs = self._answer(route, jobs, hosts, now)
        if route.draws or type(route).sample is not Place.sample:
            able = doors.open_for(self.run, job) if able is None else able
            if able.any() and not np.isfinite(costs[able]).any():
                some = {name: getattr(hosts, name)[able] for name in route.reads}
                costs[:] = np.inf
                costs[able] = self._answer(route, jobs, Hosts.over(some, ALL_COLUMNS, int(able.sum())), now)
        return costs

    def _answer(self, route: Place, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        costs = np.array(route.costs(jobs, hosts, now), np.float64)
        if costs.shape != (len(hosts),) or np.count_nonzero(np.isnan(costs)):
            raise PolicyError(
                f"{type(route).__name__}: costs at {now:g} s have shape {costs.shape} or contain NaN, expected ({len(hosts)},) numbers or inf"
            )
        return costs

    def _view(self, route: Place) -> Mapping[str, FloatColumn]:
        """The loads as they were when they were last looked up."""
        asked, view = self._late.get(id(route), (0, NO_COLUMNS))
        if asked % self.run.renewed == 0:
            names = [name for name in route.reads if name in LOADS]
            view = {name: HOST_VALUES[name](self.run) for name in names if name in HOST_VALUES}
            view |= {name: self._pair(PAIR_COLUMNS[name], 0) for name in names if name in PAIR_COLUMNS}
            view = {name: kept(column) for name, column in view.items()}  # some are views of what goes on
        self._late[id(route)] = (asked + 1, view)
        return view
