"""Programs: calls come when those that they wait for are done; files and their mistakes; what calls share; orders by program."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs
from rota.rules import ORDERS, PLACES
from rota.study.scenario import parse
from rota.testing.conformance import ConformanceSuite, Subject
from rota.worlds.serving.columns import SERVING_JOB_COLUMNS
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import Programs, make_workload
from rota.worlds.serving.policies import SERVING_ORDERS
from rota.worlds.serving.programs import ProgramSpec, draw_programs, read_programs
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.test_twin_fleet import replica


class TestConformance(ConformanceSuite):
    subjects = {
        name: Subject(made, "order", job_columns=SERVING_JOB_COLUMNS, world="serving")
        for name, made in SERVING_ORDERS.items()
        if name in ("plas", "atlas", "program_fcfs")
    }


calls = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 8), st.integers(0, 5), st.sets(st.integers(1, 4), max_size=2)),
    min_size=1,
    max_size=14,
)


@settings(deadline=None)
@given(drawn=calls, programs=st.integers(1, 3), order=st.sampled_from(["fcfs", "plas", "atlas", "program_fcfs"]))
def test_a_call_comes_when_its_parents_are_done(drawn: list[Any], programs: int, order: str) -> None:
    """Parents are calls of the same program that stand a few places before; everything is served, and nothing comes early or late."""
    rows = len(drawn)
    program = np.arange(rows) % programs
    parents = [[p for back in sorted(each[3]) if (p := k - back * programs) >= 0] for k, each in enumerate(drawn)]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in parents])])
    delay = np.array([each[2] * 0.25 for each in drawn])
    tree = Programs(program, offsets, np.array([p for each in parents for p in each], np.int64), delay)
    work = make_workload(
        np.zeros(rows), np.array([each[0] for each in drawn]), np.array([each[1] for each in drawn]), programs=tree
    )
    made = (ORDERS | SERVING_ORDERS)[order]()
    run = Simulation(
        work, [replica(), replica(slower=2.0)], Roles(made, PLACES["least_outstanding"](), ORDERS["fcfs"]())
    )
    run.run()
    assert (run.jobs[at.STATE] == at.FINISHED_STATE).all()
    arrival, finish = run.seconds[at.ARRIVAL], run.seconds[at.FINISH]
    for k in range(rows):
        expected = max(finish[parents[k]]) + delay[k] if parents[k] else 0.0
        assert arrival[k] == expected


@pytest.mark.parametrize("more", [[replica()], [replica(), replica(slower=2.0)]])
def test_calls_that_come_together_begin_together(more: list[Replica]) -> None:
    """A call that ends lets three follow at once: an idle replica computes their prompts in one iteration, not the first alone."""
    tree = Programs(np.zeros(4, np.int64), np.array([0, 0, 1, 2, 3]), np.zeros(3, np.int64), np.zeros(4))
    work = make_workload(np.zeros(4), np.array([4, 2, 3, 2]), np.array([3, 2, 2, 2]), programs=tree)
    run = Simulation(work, more, Roles(ORDERS["fcfs"](), Together(), ORDERS["fcfs"]()))
    run.run()
    end = run.seconds[at.FINISH, 0]
    assert run.seconds[at.ARRIVAL, 1:].tolist() == run.seconds[at.SCHEDULED, 1:].tolist() == [end] * 3
    assert len(set(run.seconds[at.FINISH, 1:].tolist())) == 1


class Together(Place):
    """All on the first replica."""

    reads = ("id",)

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        return np.asarray(hosts.id, np.float64)


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "programs.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


PLAN = {"program": "p", "id": "plan", "arrival": 1.5, "prompt_tokens": 40, "output_tokens": 8, "blocks": [7, 9]}
ACT = {
    "program": "p",
    "id": "act",
    "after": ["plan"],
    "delay": 2.0,
    "prompt_tokens": 60,
    "output_tokens": 3,
    "tenant": "t",
}


def test_a_file_says_who_waits_for_whom(tmp_path: Path) -> None:
    work = read_programs(write(tmp_path, ACT, {**PLAN, "program": "q", "arrival": 1.0}, PLAN))
    assert work.programs is not None
    assert work.arrival.tolist() == [1.0, 1.5, 1.5]
    assert work.prompt_tokens.tolist() == [40, 60, 40]
    assert work.programs.parents.tolist() == [2]
    assert work.programs.roots.tolist() == [True, False, True]
    assert work.programs.delay.tolist() == [0.0, 2.0, 0.0]
    assert work.prefix is not None
    assert work.prefix.ids.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ((PLAN, "{"), "line 2"),
        ((PLAN, {**ACT, "colour": 1}), "line 2: .*colour"),
        ((PLAN, PLAN), "line 2: call plan of program p is there twice"),
        ((PLAN, {**ACT, "after": ["paln"]}), "line 2: call act waits for paln, which program p does not have"),
        (
            ({**PLAN, "after": ["act"], "arrival": None}, ACT),
            r"programs.jsonl, line 1: calls of program p wait for each other in a circle: plan waits for act waits for plan$",
        ),
        ((PLAN, {**ACT, "after": ["act"]}), r"line 2: calls of program p .* in a circle: act waits for act$"),
        (  # beside calls that can come, and followed by one that only waits for the circle
            (
                PLAN,
                {**ACT, "id": "late", "after": ["b"]},
                {**ACT, "id": "a", "after": ["plan", "b"]},
                {**ACT, "id": "b", "after": ["a"]},
            ),
            r"line 4: calls of program p .* in a circle: b waits for a waits for b$",
        ),
        (
            tuple({**ACT, "id": k, "after": [(k + 1) % 7]} for k in range(7)),
            "0 waits for 1 waits for 2 waits for 3 waits for 4 waits for ...$",
        ),
        (({**PLAN, "arrival": None},), "needs an arrival"),
        ((PLAN, {**ACT, "arrival": 3.0}), "leave out its arrival"),
        ((PLAN, {**ACT, "delay": -1}), "line 2: .*delay"),
        (({**PLAN, "prompt_tokens": 0},), "line 1: .*prompt_tokens"),
        (({**PLAN, "blocks": [1, 2, 3, 4]},), "are more than the prompt"),
        (
            (PLAN, {**ACT, "blocks": [7, 8, 9]}),
            "line 2: block 9 stands after 8, and after 7 above: an id must stand for",
        ),
        ((PLAN, {**ACT, "blocks": [9]}), "line 2: block 9 stands first, and after 7 above"),
        (({**PLAN, "blocks": [7, 7]},), "line 1: block 7 stands after 7, and first above"),
        ((), "has no calls"),
    ],
)
def test_broken_files(lines: tuple[Any, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read_programs(write(tmp_path, *lines))


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"arrivals": {"poisson": {"rate": 2}}}, "make their own arrivals"), ({"first": 5}, "cut programs")],
)
def test_programs_in_a_scenario(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    document: dict[str, Any] = {"world": "serving", "workload": {"programs": {"kind": "chain", "count": 5, "rate": 1.0}, **changes},
                                "fleet": [{"model": "llama-3.1-8b", "gpu": "h100"}], "policies": [{"name": "a"}]}  # fmt: skip
    with pytest.raises(InputError, match=says):
        parse(document, tmp_path)


def test_a_chain_finds_all_that_was_said_before() -> None:
    """One agent on a large cache computes each token once, but for the last block of what is not full yet."""
    spec = ProgramSpec(kind="chain", count=1, rate=1.0, calls=12.0, prompt=200.0, output=40.0, added=30.0)
    work = draw_programs(spec, np.random.default_rng(5))
    assert len(work) > 4
    engine = replica(kv_blocks=20_000, block_tokens=16, prefix_caching=True, context_limit=100_000)
    run = Simulation(work, [engine], Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"]()))
    run.run()
    whole = work.prompt_tokens[:-1] + work.output_tokens[:-1] - 1  # the last token of an answer is not in the cache
    assert run.jobs[at.CACHED, 0] == 0
    assert run.jobs[at.CACHED, 1:].tolist() == (whole // 16 * 16).tolist()


def test_kinds_have_their_shape() -> None:
    rng = np.random.default_rng(0)
    fan = draw_programs(ProgramSpec(kind="fan_out", count=20, rate=1.0, width=3), rng)
    assert fan.programs is not None
    assert np.diff(fan.programs.offsets)[:5].tolist() == [0, 1, 1, 1, 3]
    best = draw_programs(ProgramSpec(kind="best_of", count=20, rate=1.0, width=3), rng)
    assert best.programs is not None
    assert best.programs.roots.all()
    assert best.prefix is not None
    assert (best.prompt_tokens[:3] == best.prompt_tokens[0]).all()


def table(**columns: list[float]) -> Jobs:
    return Jobs({name: np.array(column) for name, column in columns.items()}, SERVING_JOB_COLUMNS.values())


def test_wide_programs_are_not_long_ones() -> None:
    """ATLAS: of two calls, one of a program that did much side by side and one of a program that did it one after the other, the first is nearer to its end."""
    common = {"attained": [0.0, 0.0], "release": [0.0, 0.0]}
    plas, atlas = SERVING_ORDERS["plas"](), SERVING_ORDERS["atlas"]()
    assert plas.keys(table(program_attained=[8.0, 8.0], **common), 0.0).tolist() == [4.0, 4.0]
    wide, deep = atlas.keys(table(path_attained=[1.0, 8.0], **common), 0.0)
    assert wide < deep


def test_who_has_waited_too_long_goes_first() -> None:
    plas = SERVING_ORDERS["plas"]()
    assert plas.keys(table(program_attained=[8.0], attained=[0.0], release=[0.0]), 161.0).tolist() == [0.0]
    assert plas.keys(table(program_attained=[8.0], attained=[0.0], release=[0.0]), 159.0).tolist() == [4.0]
