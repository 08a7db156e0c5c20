"""The queues world as a study sees it: from a scenario's words to a finished run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from rota.kernel.decisions import Order, Place, Policy
from rota.kernel.errors import BrokenRunError, InputError
from rota.kernel.streams import generator
from rota.kernel.world import Measure, RunResult
from rota.rules import ALLOTS, ORDERS, PLACES
from rota.rules.find import find
from rota.worlds.queues import draw
from rota.worlds.queues.kernels import layout as at
from rota.worlds.queues.metrics import MEASURES, outcomes, series, spans, summarise
from rota.worlds.queues.model import Workload, make_workload
from rota.worlds.queues.policies import ADMISSIONS, QUEUE_ORDERS, QUEUE_PLACES, SHARES
from rota.worlds.queues.settings import Case, SizeInformation, load
from rota.worlds.queues.simulate import Roles, Simulation
from rota.worlds.queues.verify import verify

DEFAULTS = {"order": "fcfs", "route": "least_outstanding"}
SHAPES = {"order": "order", "share": "allot", "route": "place", "admit": "allot"}
SHARED: Mapping[str, Mapping[str, Any]] = {"order": ORDERS, "share": ALLOTS, "route": PLACES, "admit": {}}


class Queues:
    """Servers and lines with known laws. Implements `rota.kernel.world.World`."""

    name = "queues"
    sections = ("workload", "servers", "information", "warm_up", "budget")
    roles = ("order", "share", "route", "admit")
    rooms: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        {"order": QUEUE_ORDERS, "share": SHARES, "route": QUEUE_PLACES, "admit": ADMISSIONS}
    )
    objective = "response_mean"
    measures: Mapping[str, Measure] = MEASURES

    def load(self, sections: Mapping[str, Any], folder: Path) -> Case:
        """Check the scenario's sections; see `settings`."""
        return load(sections, folder)

    def resolve(self, case: Case, policy: Mapping[str, Any], folder: Path) -> str | None:
        """Build a policy's roles without running them. None, or why it does not apply here."""
        roles = self._roles(policy, folder)
        for member in roles.policies():
            reads = {*member.reads, *getattr(member, "reads_job", ())}
            if case.information.size == "hidden" and reads & {"size", "remaining"}:
                return f"it reads {sorted(reads & {'size', 'remaining'})[0]}, which is hidden: set information.size to exact or {{predicted: exponential}}"
            if case.information.size == "hidden" and "work" in reads:
                return "it reads the work at the servers, and sizes are hidden: set information.size"
            if reads & {"predicted_size", "predicted_remaining"} and not _predicts(case):
                return "it reads a predicted size: set information.predicted_size, such as exponential or {lognormal: {sigma: 0.5}}"
            if case.information.short is None and "short" in reads:
                return "it reads the bit `short`: set information.short, such as {threshold: 1}"
            reason = member.supports(self.name)
            if reason is not None:
                return reason
        return None

    def workload(self, case: Case, seed: int) -> Workload:
        """The jobs of a seed: the same for every policy."""
        return draw.workload(case, seed)

    def random_workload(self, case: Case) -> bool:
        """Whether seeds differ in their jobs: a recorded trace is one fact, not a sample."""
        return case.process is not None

    def prepare(self, case: Case, policies: Sequence[Mapping[str, Any]]) -> None:
        """Compile what these policies need, on a few jobs."""
        tiny = make_workload(np.array([0.0, 0.5]), np.array([1.0, 0.5]), columns={})
        for policy in policies:
            self.simulation(case, tiny, policy, 0).run()

    def run(self, case: Case, workload: Workload, policy: Mapping[str, Any], seed: int) -> RunResult:
        """One policy on one seed.

        Raises:
            BrokenRunError: the finished run breaks a rule of `verify`: a bug worth reporting.
        """
        run = self.simulation(case, workload, policy, seed)
        run.run()
        rows = outcomes(run, case.warm_up)
        broken = verify(
            workload, case.servers, rows, float(run.clock[0, at.AREA]), float(run.clocks[at.BUSY_SECONDS].sum())
        )
        if broken:
            raise BrokenRunError(f"the run breaks a rule: {broken[0]}")
        metrics = summarise(run, rows)
        return RunResult(
            metrics, rows, series(run, rows), spans(run, rows), _notices(case, workload, metrics), _knew(run)
        )

    def simulation(self, case: Case, workload: Workload, policy: Mapping[str, Any], seed: int) -> Simulation:
        """The run of a policy, ready to start: for tests, notebooks and stepping through time."""
        roles = self._roles(policy, case.folder)
        for role in self.roles:
            member = getattr(roles, role)
            if member is not None:
                member.bind(generator(seed, f"policy/{role}"))
        visible, quality = draw.visible_size(case, workload, seed)
        predicted, predicted_quality = draw.predicted_size(case, workload, seed)
        return Simulation(
            workload,
            case.servers,
            roles,
            visible,
            quality,
            predicted,
            predicted_quality,
            short=draw.short_bit(case, workload, seed),
            refresh=case.information.hosts.refresh,
            every=case.information.hosts.every,
            budget=case.budget,
        )

    def bounds(self, case: Case, workload: Workload) -> dict[str, float]:
        """What no policy can beat; see `bounds`."""
        from rota.worlds.queues.bounds import bounds

        return bounds(workload, case.servers, case.warm_up)

    def describe(self, case: Case) -> list[tuple[str, str]]:
        """The setting in words, for the report."""
        section = case.workload
        lines = [("workload", f"trace {Path(str(section.trace)).name}")]
        if case.process is not None:
            laws = ", ".join(
                f"{law.setting.name}: {law.service.name}, mean {law.service.mean:g} s" for law in case.laws
            )
            lines = [
                (
                    "workload",
                    f"{section.jobs:,} jobs, arrivals {section.arrivals}, {case.rate:g}/s, load {case.load:.3g}; {laws}",
                )
            ]
        count = len(case.servers)
        line = "one line before all" if case.servers.central else "a line each"
        lines.append(
            (
                "servers",
                f"{count}, {line}" + ("" if case.servers.buffer < 0 else f", at most {case.servers.buffer} waiting"),
            )
        )
        size = case.information.size
        lines.append(("sizes", str(size) if not isinstance(size, SizeInformation) else "predicted"))
        warm_up = case.warm_up
        skipped = f"{warm_up.jobs:,} jobs" if warm_up.jobs is not None else f"{warm_up.share or 0:.0%} of the jobs"
        lines.append(("warm-up", f"the first {skipped} are simulated and not counted"))
        return lines

    def _roles(self, policy: Mapping[str, Any], folder: Path) -> Roles:
        name = policy.get("name", "policy")
        if "share" in policy and "order" in policy:
            raise InputError(f"policy {name}: share divides the servers, so there is no order; keep one of them")

        def member(role: str) -> Policy | None:
            spec = policy.get(role, DEFAULTS.get(role))
            rooms = [SHARED[role], self.rooms[role]]
            return None if spec is None else find(SHAPES[role], spec, rooms, folder, f"policy {name}, {role}")

        return Roles(member("order"), member("route"), member("share"), member("admit"))  # type: ignore[arg-type]


def _predicts(case: Case) -> bool:
    return case.information.predicted_size is not None or isinstance(case.information.size, SizeInformation)


def _notices(case: Case, work: Workload, metrics: Mapping[str, float]) -> tuple[str, ...]:
    lines = list(work.notices)
    if case.load >= 1.0 and not np.isfinite(work.patience).any() and case.servers.buffer < 0:
        lines.append(
            f"load {case.load:.3g} is 1 or more: lines grow without end, so means are of these {len(work):,} jobs only and say nothing of a steady state"
        )
    for name, words in (
        ("blocked", "found the line full"),
        ("abandoned", "lost patience"),
        ("refused", "were not admitted"),
    ):
        if metrics[name]:
            lines.append(f"{int(metrics[name]):,} jobs {words}")
    return tuple(lines)


def _knew(run: Simulation) -> str:
    """The columns that the policies of a run could see, with their quality."""
    words: list[str] = []
    for member in run.roles.policies():
        if member is run.roles.route and run.servers.central:
            continue  # it is never asked
        for name in (*member.reads, *getattr(member, "reads_job", ())):
            text = str(run._columns[name]) if name in run._columns and isinstance(member, Order) else name
            if (
                (run.refresh or run.every)
                and isinstance(member, Place)
                and name not in ("id", "speed", "decisions", *member.reads_job)
            ):
                age = f"{run.refresh:g} s" if run.refresh else f"{run.every} placements"
                text = f"{name} (stale, up to {age})"
            if text not in words and name != "id":
                words.append(text)
    return ", ".join(words) or "nothing"
