"""What a policy that is asked about a request sees: prepared once a policy, filled at every question."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Place
from rota.kernel.tables import HOST_COLUMNS, Column, Hosts, Jobs
from rota.worlds.serving.adapters import COLUMNS as ADAPTER_COLUMNS
from rota.worlds.serving.columns import HOST_VALUES, LOOKED_AT, ROUTE_COLUMNS, SERVING_HOST_COLUMNS
from rota.worlds.serving.energy import ENERGY_COLUMNS, Clocks
from rota.worlds.serving.pools import POOL_COLUMNS, Pools
from rota.worlds.serving.quality import COLUMNS as CHOICE_COLUMNS

if TYPE_CHECKING:
    from rota.worlds.serving.simulate import Simulation

FloatColumn = npt.NDArray[np.float64]
ALL_COLUMNS = {**HOST_COLUMNS, **SERVING_HOST_COLUMNS, **POOL_COLUMNS, **ENERGY_COLUMNS}
CONSTANT = ("urgent", "price", "speed")  # of a run


class Question:
    """The tables of one policy: which columns the kernel fills, which Python keeps.

    Args:
        given: Columns that the caller brings along to every question; they are not looked up.
    """

    def __init__(self, run: "Simulation", policy: Place | Pools | Clocks, given: tuple[str, ...]) -> None:
        from rota.worlds.serving.kernels import asked  # compiled only when a policy is asked

        self.run, self.given, self._fill = run, tuple(name for name in policy.reads if name in given), asked.fill_table
        reads = [name for name in policy.reads if name not in given]
        whole = {name: code for code, name in enumerate(asked.WHOLE)}
        others = {name: code for name, code in ROUTE_COLUMNS.items() if name not in whole}
        others |= {name: asked.N_KV_USE + k for k, name in enumerate(asked.MORE)}
        self._whole = tuple(name for name in reads if name in whole)
        self._others = tuple(name for name in reads if name in others)
        self._whole_codes = np.array([whole[name] for name in self._whole], np.int64)
        self._other_codes = np.array([others[name] for name in self._others], np.int64)
        self._constant = {name: kept(HOST_VALUES[name](run)) for name in reads if name in CONSTANT}
        self._looked_at = tuple(name for name in reads if name in LOOKED_AT)
        self._choice = tuple(name for name in reads if name in CHOICE_COLUMNS)
        self._adapters = tuple(name for name in reads if name in ADAPTER_COLUMNS)
        names = policy.reads_job if isinstance(policy, Place | Pools) else ()
        codes = {name: code for name in names if name != "id" and (code := run.views.codes.get(name, -1)) >= 0}
        self._of_job = tuple(codes)
        self._job_codes = np.array(list(codes.values()), np.int64)
        self._id = "id" in names
        self._release = run.makes_arrivals and "release" in self._of_job
        self._job_columns: dict[str, Column] = {column.name: column for column in run.views.columns}
        self._none, self._blank = (Jobs.over({}, self._job_columns, rows) for rows in (0, 1))
        self._fixed, self._count = run.views.fixed, len(run.replicas)
        self._no_jobs, self._no_others = np.empty((0, 1)), np.empty((0, self._count))
        self._no_whole = np.empty((0, self._count), np.int64)

    def ask(self, job: int | None, more: Mapping[str, FloatColumn]) -> tuple[Jobs, Hosts]:
        """The tables about a request (None: about none) and all hosts, as they are now."""
        run, count = self.run, self._count
        of_job = np.empty((len(self._of_job), 1)) if self._of_job else self._no_jobs
        whole = np.empty((len(self._whole), count), np.int64) if self._whole else self._no_whole
        others = np.empty((len(self._others), count)) if self._others else self._no_others
        if self._release and job is not None:
            run.views.look_up_release(job)
        self._fill(
            run.state,
            self._job_codes,
            self._fixed,
            self._whole_codes,
            self._other_codes,
            job or 0,
            of_job,
            whole,
            others,
        )
        hosts: dict[str, npt.NDArray[Any]] = {}
        if self._whole:
            whole.flags.writeable = False
            hosts.update(zip(self._whole, whole, strict=True))
        if self._others:
            others.flags.writeable = False
            hosts.update(zip(self._others, others, strict=True))
        if self._constant:
            hosts.update(self._constant)
        for name in self._looked_at:
            hosts[name] = kept(HOST_VALUES[name](run))
        if (choice := run.choice) is not None:
            hosts.update((name, kept(choice.column(name, job or 0))) for name in self._choice)
        for name in self._adapters:
            hosts[name] = kept(run.adapters.column(name, job or 0) if run.adapters else np.zeros(count))
        for name in self.given:
            hosts[name] = kept(more[name])
        return self._jobs(job, of_job), Hosts.over(hosts, ALL_COLUMNS, count)

    def _jobs(self, job: int | None, of_job: FloatColumn) -> Jobs:
        if job is None:
            return self._none
        if not self._of_job and not self._id:
            return self._blank
        values: dict[str, npt.NDArray[Any]] = {}
        if self._of_job:
            of_job.flags.writeable = False
            values.update(zip(self._of_job, of_job, strict=True))
        if self._id:
            values["id"] = kept(np.array([job]))
        return Jobs.over(values, self._job_columns, 1)


def kept(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A column as a policy may keep it: nobody writes to it."""
    if column.flags.writeable:
        column = np.array(column)
        column.flags.writeable = False
    return column
