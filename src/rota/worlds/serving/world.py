"""The serving world as a study sees it: from a scenario's words to a finished run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Order, Place
from rota.kernel.errors import BrokenRunError, InputError
from rota.kernel.streams import exponential, generator
from rota.kernel.world import Measure, RunResult
from rota.rules import ORDERS, PLACES
from rota.rules.find import find
from rota.worlds.serving import catalogue
from rota.worlds.serving.adapters import apply_adapters, check_rooms
from rota.worlds.serving.admission import Admit
from rota.worlds.serving.applies import why_not
from rota.worlds.serving.arrivals import Closed, Replay, Scale, apply_arrivals
from rota.worlds.serving.asked_models import apply_models
from rota.worlds.serving.batching import Batcher
from rota.worlds.serving.build import build_replica, choice, energy, plan, visible_output
from rota.worlds.serving.caching import Index
from rota.worlds.serving.classes import apply_classes, describe_class
from rota.worlds.serving.energy import Clocks
from rota.worlds.serving.fleet import Migrate, Scaler
from rota.worlds.serving.generate import generate
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.learned import groups
from rota.worlds.serving.metrics import MEASURES, outcomes, series, spans, summarise, waits_in_vain
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.money import check_prices
from rota.worlds.serving.naming import check_block_sizes
from rota.worlds.serving.nodes import seats
from rota.worlds.serving.numbers import MOMENT
from rota.worlds.serving.policies import (
    ADMITS,
    BATCHERS,
    CLOCKS,
    MIGRATIONS,
    POOLS,
    RECALLS,
    RETAINERS,
    ROUTES,
    SCALERS,
    SERVING_ORDERS,
    STOPPERS,
)
from rota.worlds.serving.pools import Pools
from rota.worlds.serving.programs import draw_programs, read_programs
from rota.worlds.serving.read import read_trace
from rota.worlds.serving.reasoning import draw_reasoning
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.retain import Retain
from rota.worlds.serving.rounds import Stop
from rota.worlds.serving.semantic import Recall, apply_topics, draw_similarity
from rota.worlds.serving.settings import Case, Group, kv_blocks, load
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.timing import Timing
from rota.worlds.serving.timing import build as build_timing
from rota.worlds.serving.verify import verify

DEFAULTS = {"batch": "vllm_v1", "order": "fcfs", "route": "least_outstanding", "hold": "fcfs"}


class Serving:
    """Replay of LLM request traces on a simulated fleet. Implements `rota.kernel.world.World`."""

    name = "serving"
    sections = (
        *("workload", "fleet", "information", "slo", "links", "failures", "scaling", "power"),
        *("classes", "tenants", "adapters", "models", "nodes", "quality", "token_prices", "index", "categories"),
    )
    roles = (
        *("route", "hold", "order", "batch", "victim", "decode", "migrate", "scale"),
        *("admit", "pool", "retain", "power", "recall", "stop"),
    )
    objective = "e2e_mean"
    rooms: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        {
            "batch": BATCHERS,
            **dict.fromkeys(("route", "decode"), ROUTES),
            **dict.fromkeys(("order", "hold", "victim"), SERVING_ORDERS),
            "migrate": MIGRATIONS,
            "scale": SCALERS,
            "admit": ADMITS,
            "pool": POOLS,
            "retain": RETAINERS,
            "power": CLOCKS,
            "recall": RECALLS,
            "stop": STOPPERS,
        }
    )
    measures: Mapping[str, Measure] = MEASURES

    def __init__(self) -> None:
        self._timings: dict[str, Timing] = {}  # tables are read once

    def load(self, sections: Mapping[str, Any], folder: Path) -> Case:
        """Check the scenario's sections; see `settings`."""
        case = load(sections, folder)
        for number, group in enumerate(case.fleet):
            try:
                ranks = self._timing(case, group).ranks
                if group.count % ranks:
                    raise InputError(
                        f"count: {group.count} replicas cannot go in steps of expert_parallel: {ranks}; make it a multiple"
                    )
                if case.power is not None and ranks > 1:
                    raise InputError("power: clocks of replicas that go in step (expert_parallel) are not modelled")
            except InputError as error:
                raise InputError(f"fleet[{number}]: {error}") from None
        return case

    def resolve(self, case: Case, policy: Mapping[str, Any], folder: Path) -> str | None:
        """Build a policy's roles without running them. None, or why it does not apply here."""
        roles = self._roles(policy, folder)
        replicas = self._fleet(case, policy, folder)
        if roles.retain is not None and not any(group.prefix_caching for group in case.fleet):
            raise InputError(
                f"policy {policy.get('name', 'policy')}, retain: no replica has a prefix cache; set prefix_caching in a group of the fleet"
            )
        return why_not(case, policy, roles, replicas, self._batcher(policy, folder))

    def workload(self, case: Case, seed: int) -> Workload:
        """The requests of a seed: the same for every policy."""
        section = case.workload
        if case.generator is not None:
            work = generate(case.generator, generator(seed, "workload"))
        elif section.programs is not None:
            work = draw_programs(section.programs, generator(seed, "workload"))
        elif section.reasoning is not None:
            work = draw_reasoning(section.reasoning, generator(seed, "workload"), section.block_tokens or 16)
        elif section.format == "programs":
            work = read_programs(case.folder / Path(str(section.trace)).expanduser(), section.block_tokens or 16)
        else:
            work = read_trace(
                case.folder / Path(str(section.trace)).expanduser(),
                section.columns,
                section.format,
                arrival_unit=section.arrival_unit,
                block_tokens=section.block_tokens,
                on_zero=section.on_zero,
                under=section.under,
                follow=section.follow,
                origin=section.origin,
            )
        if section.first is not None:
            work = head(work, section.first)
        check_block_sizes(work, sorted({group.block_tokens for group in case.fleet if group.prefix_caching}))
        work = apply_arrivals(work, case.arrivals, generator(seed, "arrivals"))
        work = apply_classes(work, case.classes, case.tenants, seed)
        work = apply_models(work, case.models, {name: each.model for name, each in case.tenants.items()}, seed)
        work = apply_topics(apply_adapters(work, case.adapters, seed), case.topics, seed)
        check_rooms(work, {number: bool(group.adapters) for number, group in enumerate(case.fleet)})
        if case.information.learner is not None:
            groups(work, case.information.learner.group)  # a label that there is not is told before anything runs
        return work

    def random_workload(self, case: Case) -> bool:
        """Whether seeds differ in their requests: a replayed trace is one fact, not a sample."""
        return (
            case.generator is not None
            or case.workload.programs is not None
            or case.workload.reasoning is not None
            or (not isinstance(case.arrivals, Replay | Scale | Closed))
        )

    def prepare(self, case: Case, policies: Sequence[Mapping[str, Any]]) -> None:
        """Compile what these policies need, on a handful of requests."""
        tiny = make_workload(np.array([0.0, 0.001]), np.array([8, 8]), np.array([2, 3]))
        plain = replace(case, information=case.information.without_groups())
        for policy in policies:
            self.run(plain, tiny, policy, 0)

    def run(self, case: Case, workload: Workload, policy: Mapping[str, Any], seed: int) -> RunResult:
        """One policy on one seed.

        Raises:
            BrokenRunError: the finished run breaks a rule of `verify`: a bug worth reporting.
        """
        run = self.simulation(case, workload, policy, seed)
        run.run()
        rows = outcomes(run, case.slo)
        metrics, lines = summarise(run, rows), series(run)
        width = float(run.clock[at.BIN_SECONDS])
        broken = verify(workload, run.replicas, rows, metrics, lines, width, run.makes_arrivals)
        if broken:
            raise BrokenRunError(f"the run breaks a rule: {broken[0]}")
        return RunResult(metrics, rows, lines, spans(rows), _notices(run, metrics, rows["status"]), _knew(run, case))

    def simulation(self, case: Case, workload: Workload, policy: Mapping[str, Any], seed: int) -> Simulation:
        """The run of a policy, ready to start: for tests, notebooks and stepping through time."""
        roles = self._roles(policy, case.folder)
        for role, member in (
            ("route", roles.route),
            ("hold", roles.hold),
            ("order", roles.order),
            ("victim", roles.victim),
            ("decode", roles.decode),
            ("migrate", roles.migrate),
            ("scale", roles.scale),
            ("admit", roles.admit),
            ("pool", roles.pool),
            ("retain", roles.retain),
            ("power", roles.clocks),
            ("recall", roles.recall),
            ("stop", roles.stop),
        ):
            if member is not None:
                member.bind(generator(seed, f"policy/{role}"))
        visible, quality = visible_output(case, workload, seed)
        think, concurrency = None, 0
        if isinstance(case.arrivals, Closed):
            concurrency = case.arrivals.concurrency
            think = case.arrivals.think_seconds * exponential(seed, "think", np.arange(len(workload)))
        fleet = self._fleet(case, policy, case.folder)
        return Simulation(
            workload,
            fleet,
            roles,
            visible,
            quality,
            think=think,
            concurrency=concurrency,
            plan=replace(plan(case, seed), energy=energy(case)),
            seed=seed,
            similarity=draw_similarity(workload, case.topics, seed) if case.topics else None,
            choice=choice(case, workload, [replica.model for replica in fleet], visible, seed),
            index=Index(case.index.kind, case.index.delay, case.index.blocks),
            renewed=case.information.hosts.every,
            learns=case.information.learner,
        )

    def check_objective(self, case: Case, objective: str) -> None:
        """Raises InputError where an objective cannot be had in a scenario."""
        check_prices(case, objective)

    def bounds(self, case: Case, workload: Workload) -> dict[str, float]:
        """What no policy can beat; see `bounds`."""
        from rota.worlds.serving.bounds import bounds

        if isinstance(case.arrivals, Closed) or case.workload.reasoning is not None:  # calls may be spared
            return {}
        return bounds(workload, self._fleet(case, {"name": "bound"}, case.folder))

    def describe(self, case: Case) -> list[tuple[str, str]]:
        """The setting in words, for the report."""
        lines = []
        section = case.workload
        drawn = section.generate
        if section.programs is not None:
            drawn = f"{section.programs.count} programs, {section.programs.kind}, {section.programs.words()}"
        elif section.reasoning is not None:
            drawn = ", ".join(f"{each.count} programs that reason in {each.kind}" for each in section.reasoning)
        source = f"trace {Path(str(section.trace)).name}" if section.trace else f"generated: {drawn}"
        lines.append(("workload", f"{source}, arrivals {section.arrivals}"))
        for group in case.fleet:
            timing = self._timing(case, group)
            blocks = kv_blocks(group, catalogue.model(group.model), catalogue.gpu(group.gpu))
            text = (
                f"{group.count} x {group.model} on {group.tp} x {group.gpu}: {blocks:,} KV blocks of {group.block_tokens} tokens, "
                f"at most {group.max_running} running and {group.max_batched_tokens:,} tokens an iteration; timing {timing.kind}"
            )
            lines.append(("replicas", text))
        if case.power is not None:
            budget = "no budget" if case.power.cap is None else f"a budget of {case.power.cap:,.0f} W"
            boards = "" if case.power.board_cap is None else f", {case.power.board_cap:g} W a GPU"
            lines.append(("power", f"{budget}{boards}, read every {case.power.telemetry:g} s"))
        lines.append(("output lengths", _information(case)))
        limits = {
            name: getattr(case.slo, name) for name in ("ttft", "tpot", "e2e") if getattr(case.slo, name) is not None
        }
        if limits:
            lines.append(("limits", ", ".join(f"{name} {value:g} s" for name, value in limits.items())))
        for name, each in case.classes.items():
            lines.append((f"class {name}", describe_class(each)))
        return lines

    # -- parts ----------------------------------------------------------------------------------------------------

    def _timing(self, case: Case, group: Group) -> Timing:
        key = f"{case.folder}: {group}"
        if key not in self._timings:
            self._timings[key] = build_timing(
                group.timing, catalogue.model(group.model), catalogue.gpu(group.gpu), group.tp, case.folder
            )
        return self._timings[key]

    def _roles(self, policy: Mapping[str, Any], folder: Path) -> Roles:
        name = policy.get("name", "policy")

        def shape(kind: str, role: str, rooms: Sequence[Mapping[str, Any]]) -> Any:
            return find(kind, policy.get(role, DEFAULTS.get(role)), rooms, folder, f"policy {name}, {role}")

        def order(role: str) -> Order:
            return shape("order", role, [ORDERS, SERVING_ORDERS])  # type: ignore[no-any-return]

        def place(role: str) -> Place:
            return shape("place", role, [PLACES, ROUTES])  # type: ignore[no-any-return]

        def own(kind: type[Any], role: str, room: Mapping[str, Any]) -> Any:
            if role not in policy:
                return None
            found = find(kind, policy[role], [room], folder, f"policy {name}, {role}")
            if isinstance(found, Scaler | Migrate | Clocks) and not MOMENT <= found.every < np.inf:
                raise InputError(
                    f"policy {name}, {role}: every must be a finite number of seconds, {MOMENT:g} or more, found {found.every:g}"
                )
            return found

        return Roles(
            order("order"),
            place("route"),
            order("hold"),
            order("victim") if "victim" in policy else None,
            place("decode") if "decode" in policy else None,
            own(Migrate, "migrate", MIGRATIONS),
            own(Scaler, "scale", SCALERS),
            own(Admit, "admit", ADMITS),
            own(Pools, "pool", POOLS),
            own(Retain, "retain", RETAINERS),
            own(Clocks, "power", CLOCKS),
            own(Recall, "recall", RECALLS),
            own(Stop, "stop", STOPPERS),
        )

    def _batcher(self, policy: Mapping[str, Any], folder: Path) -> Batcher:
        where = f"policy {policy.get('name', 'policy')}, batch"
        batcher = find("allot", policy.get("batch", DEFAULTS["batch"]), [BATCHERS], folder, where)
        if not isinstance(batcher, Batcher):
            raise InputError(f"{where}: must derive from rota.worlds.serving.batching.Batcher")
        return batcher

    def _fleet(self, case: Case, policy: Mapping[str, Any], folder: Path) -> list[Replica]:
        """Every replica of the fleet under a policy's batcher; each run has its own count of extrapolations."""
        batcher, replicas = self._batcher(policy, folder), []
        where = f"policy {policy.get('name', 'policy')}, batch"
        for group, places in zip(case.fleet, seats(case.nodes, case.fleet), strict=True):
            replica = build_replica(group, batcher, self._timing(case, group), case.folder, where)
            replicas += [replica if seat is None else replace(replica, seat=seat) for seat in places]
        return replicas


def _information(case: Case) -> str:
    predictor = case.information.predictor()
    return str(case.information.output_tokens) if predictor is None else f"predicted by {predictor.by}"


def head(work: Workload, count: int) -> Workload:
    """The first requests of a workload."""
    cut = {
        name: getattr(work, name)[:count]
        for name in work.__dataclass_fields__
        if isinstance(getattr(work, name), np.ndarray)
    }
    prefix = work.prefix
    if prefix is not None:
        offsets = prefix.offsets[: min(count, len(work)) + 1]
        prefix = replace(prefix, offsets=offsets, ids=prefix.ids[: offsets[-1]])
    return replace(work, **cut, prefix=prefix, labels=work.labels.head(count))


def _notices(run: Simulation, metrics: Mapping[str, float], status: npt.NDArray[np.str_]) -> tuple[str, ...]:
    lines = list(run.workload.notices)
    if metrics["rejected"]:
        lines.append(
            f"{int(metrics['rejected']):,} requests were rejected: larger than the KV cache, the context or the token budget of every replica"
        )
    if metrics["shed"]:
        lines.append(f"{int(metrics['shed']):,} requests were shed at the gate")
    if metrics["unfinished"]:
        vain = waits_in_vain(run, status == "unfinished", (status == "rejected") | (status == "shed")).sum()
        why = f", {vain:,} of them because a call that they wait for was rejected or shed" if vain else ""
        lines.append(f"{int(metrics['unfinished']):,} requests were never finished{why}")
    if metrics["extrapolated"]:
        share = metrics["extrapolated"] / max(metrics["iterations"], 1.0)
        lines.append(
            f"{int(metrics['extrapolated']):,} iterations ({share:.1%}) were outside the measured tables: their times are extrapolated"
        )
    return tuple(lines)


def _knew(run: Simulation, case: Case) -> str:
    """The columns that the policies of a run could see, with their quality."""
    words: list[str] = []
    for member in run.roles.policies():
        for name in (*member.reads, *getattr(member, "reads_job", ())):
            text = str(run.views.by_name[name]) if name in run.views.by_name and isinstance(member, Order) else name
            if isinstance(member, Place) and name in ("work", "outstanding_tokens"):
                text += "" if run.quality.quality == "exact" else f" (answers {run.quality.quality})"
            if text not in words and name != "id":
                words.append(text)
    return ", ".join(words) or "nothing"
