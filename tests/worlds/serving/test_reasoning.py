"""Programs that reason: rounds, answers that settle, calls that are spared, and whose calls go first."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.kernel.tables import Jobs
from rota.rules import ORDERS, PLACES
from rota.study.scenario import parse
from rota.testing.conformance import ConformanceSuite, Subject
from rota.worlds.serving.answers import RIGHT, UNKNOWN, Answers, AnswerSpec, draw_answers
from rota.worlds.serving.columns import SERVING_JOB_COLUMNS
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import Programs, Workload, make_workload
from rota.worlds.serving.policies import SERVING_ORDERS, STOPPERS
from rota.worlds.serving.reasoning import ReasoningSpec, draw_reasoning
from rota.worlds.serving.replica import Roles
from rota.worlds.serving.rounds import History
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.test_twin_fleet import replica

MIXED = (
    ReasoningSpec("samples", 6, 2.0, rounds=5, width=2, prompt=9, output=4),
    ReasoningSpec("tree", 5, 2.0, rounds=4, width=3, prompt=9, output=4),
    ReasoningSpec("thoughts", 6, 2.0, rounds=6, rounds_sigma=0.5, prompt=9, output=4, answers=AnswerSpec(change=0.5)),
)


class TestConformance(ConformanceSuite):
    subjects = {
        "dynasor": Subject(SERVING_ORDERS["dynasor"], "order", job_columns=SERVING_JOB_COLUMNS, world="serving")
    }


def run(work: Workload, order: str = "fcfs", stop: Any = None, **sizes: Any) -> Simulation:
    sizes = {"kv_blocks": 4000, "block_tokens": 4, "context_limit": 4000, "prefix_caching": True} | sizes
    roles = Roles(
        SERVING_ORDERS.get(order, ORDERS.get(order))(),
        PLACES["round_robin"](),
        ORDERS["fcfs"](),
        stop=stop,  # type: ignore[misc]
    )
    visible = work.output_tokens.astype(np.float64) if order == "sjf" else None
    made = Simulation(work, [replica(**sizes)], roles, visible)
    made.run()
    return made


# -- what is drawn ----------------------------------------------------------------------------------------------------


def test_the_calls_of_a_round_wait_for_all_of_the_one_before() -> None:
    work = draw_reasoning(MIXED, np.random.default_rng(3), 4)
    programs = work.programs
    assert programs is not None
    assert programs.answers is not None
    assert programs.kind is not None
    answers = programs.answers
    assert (np.diff(work.arrival) >= 0).all()
    for call in range(len(work)):
        mine = programs.parents[programs.offsets[call] : programs.offsets[call + 1]]
        together = programs.program == programs.program[call]
        before = np.flatnonzero(together & (answers.round == answers.round[call] - 1))
        assert sorted(mine.tolist()) == before.tolist()
    wide = np.bincount(programs.program[answers.round == 1])
    assert {(int(kind), int(calls)) for kind, calls in zip(programs.kind, wide, strict=True)} == {
        (0, 2),
        (1, 3),
        (2, 2),
    }
    assert answers.probe[(answers.round > 0) & (programs.kind[programs.program] == 2)].sum() == answers.probe.sum() > 0


def test_what_calls_share() -> None:
    """Samples share the question, chains and searches what they go on from; the cache finds all of it but the last block."""
    for spec, shared in ((MIXED[0], "question"), (MIXED[1], "path"), (MIXED[2], "path")):
        made = run(draw_reasoning((spec,), np.random.default_rng(4), 4), stop=STOPPERS["certaindex"](window=99))
        programs, prompt = made.workload.programs, made.workload.prompt_tokens
        assert programs is not None
        assert programs.answers is not None
        later = np.flatnonzero((programs.answers.round > 0) & ~programs.answers.probe)
        least = np.where(shared == "question", (prompt[later] - 1) // 4 * 4, (prompt[later] - 2) // 4 * 4)
        assert (made.jobs[at.CACHED, later] >= least).all()


def test_an_answer_settles() -> None:
    """After half the rounds nothing changes any more; before, it changes in every one."""
    spec = AnswerSpec(settle=(0.5, 0.5), never=0.0, accuracy=1.0, change=1.0, candidates=3)
    for seed in range(20):
        found = draw_answers(spec, 10, np.random.default_rng(seed))
        assert (found[4:] == RIGHT).all()
        assert (np.diff(found[:4]) != 0).all()


def test_shares_of_answers_are_those_that_were_asked_for() -> None:
    """Accuracy among those that settle, right by chance among those that do not: 0.7 x 0.8 + 0.3 / 4, within four standard errors."""
    spec = AnswerSpec(settle=(0.0, 1.0), never=0.3, accuracy=0.8, change=0.9, candidates=4)
    last = np.array([draw_answers(spec, 12, np.random.default_rng(seed))[-1] for seed in range(4000)])
    expected = 0.7 * 0.8 + 0.3 / 4
    assert abs((last == RIGHT).mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000)
    assert set(np.unique(last).tolist()) == {0, 1, 2, 3}


# -- what is spared ---------------------------------------------------------------------------------------------------


def expected_rounds(answers: Answers, program: int, window: int | None) -> tuple[int, int]:
    """The last round of a program and its answer: the first round at whose end the last `window` known answers are equal."""
    known = answers.known[answers.offsets[program] : answers.offsets[program + 1]].tolist()
    for number in range(len(known) - 1):
        seen = [each for each in known[: number + 1] if each != UNKNOWN]
        if window is not None and len(seen) >= window and len(set(seen[-window:])) == 1:
            return number, seen[-1]
    return len(known) - 1, int(answers.final[program])


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000), window=st.sampled_from([None, 1, 2, 3, 5]), order=st.sampled_from(["fcfs", "dynasor"])
)
def test_what_comes_after_a_window_of_equal_answers_is_spared(seed: int, window: int | None, order: str) -> None:
    work = draw_reasoning(MIXED, np.random.default_rng(seed), 4)
    made = run(work, order, None if window is None else STOPPERS["certaindex"](window=window), max_running=5)  # type: ignore[call-arg]
    programs = work.programs
    assert programs is not None
    assert programs.answers is not None
    assert made.fleet is not None
    assert made.fleet.rounds is not None
    answers, book, finish = programs.answers, made.fleet.rounds, made.seconds[at.FINISH]
    spared = made.jobs[at.STATE] == at.SPARED
    assert (spared | (made.jobs[at.STATE] == at.FINISHED_STATE)).all()
    assert np.isnan(finish[spared]).all()
    assert np.isnan(made.seconds[at.ARRIVAL, spared]).all()
    for program in range(int(programs.program.max()) + 1):
        last, answer = expected_rounds(answers, program, window)
        mine = programs.program == program
        follows = (answers.round > last) | (answers.probe & (window is None))
        assert spared[mine].tolist() == follows[mine].tolist()
        assert book.right[program] == (answer == RIGHT)
        assert book.early[program] == (last < answers.round[mine].max())
    for call in np.flatnonzero(~spared & (answers.round > 0)).tolist():
        parents = programs.parents[programs.offsets[call] : programs.offsets[call + 1]]
        assert made.seconds[at.ARRIVAL, call] == np.nanmax(finish[parents])


def by_hand(outputs: list[list[int]], given_answers: list[list[int]]) -> Workload:
    """Programs of one call a round that all come at 0."""
    program = np.repeat(np.arange(len(outputs)), [len(each) for each in outputs])
    rounds = np.concatenate([np.arange(len(each)) for each in outputs])
    parents = np.flatnonzero(rounds > 0) - 1
    offsets = np.concatenate([[0], np.cumsum(rounds > 0)])
    answers = Answers(
        rounds,
        np.zeros(len(rounds), np.bool_),
        np.concatenate([[0], np.cumsum([len(each) for each in outputs])]),
        np.concatenate(given_answers),
        np.array([each[-1] for each in given_answers]),
    )
    tree = Programs(program, offsets, parents, np.zeros(len(rounds)), answers=answers)
    return make_workload(np.zeros(len(rounds)), np.ones(len(rounds), np.int64), np.concatenate(outputs), programs=tree)


def test_savings_and_answers_by_hand() -> None:
    """Two equal answers end a program. The first saves 5 of 20 tokens and is right, the second is wrong early, the third ends by itself."""
    work = by_hand([[5, 5, 5], [5, 5, 10], [3, 2]], [[1, 0, 0], [2, 2, 0], [1, 0]])
    made = run(work, stop=STOPPERS["certaindex"](window=2), prefix_caching=False)  # type: ignore[call-arg]
    assert made.fleet is not None
    assert made.fleet.rounds is not None
    assert made.fleet.rounds.early.tolist() == [False, True, False]
    assert made.fleet.rounds.right.tolist() == [True, False, True]
    status = np.where(made.jobs[at.STATE] == at.SPARED, "spared", "finished")
    found = made.fleet.rounds.summary(status, np.ones(3, np.bool_))
    assert found == {"programs_early": 1.0, "programs_right_share": 2 / 3, "spared_token_share": 10 / 40}


def test_fixed_rounds_do_not_look() -> None:
    """Whatever the answers, and a chain's answers are not shown to it, because it does not pay for probes."""
    work = draw_reasoning(MIXED[2:], np.random.default_rng(1), 4)
    seen: list[list[int]] = []

    class Blind(STOPPERS["fixed_rounds"]):  # type: ignore[misc]
        def enough(self, answers: Any, now: float) -> bool:
            seen.append(answers.tolist())
            return bool(super().enough(answers, now))

    made = run(work, stop=Blind(rounds=2))
    assert made.fleet is not None
    assert made.fleet.rounds is not None
    assert {each for answers in seen for each in answers} == {UNKNOWN}
    programs = work.programs
    assert programs is not None
    assert programs.answers is not None
    ran = made.jobs[at.STATE] == at.FINISHED_STATE
    assert programs.answers.round[ran].max() == 2
    assert not (ran & programs.answers.probe).any()


# -- whose calls go first ---------------------------------------------------------------------------------------------


def test_what_is_to_come_is_the_mean_of_what_longer_ones_had() -> None:
    history = History()
    done, calls = np.array([0.0, 4.0, 12.0, 30.0]), np.array([0, 1, 3, 5])
    assert history.left(0, done, calls).tolist() == [0, 0, 0, 0]
    for tokens in (6.0, 10.0, 20.0):
        history.observe(0, tokens)
    assert history.left(0, done, calls).tolist() == [12.0, 8.0, 8.0, 6.0]
    history.observe(1, 40.0)
    assert history.left(1, done, calls).tolist() == [40.0, 36.0, 28.0, 10.0]
    assert history.left(2, np.array([0.0]), np.array([0])).tolist() == [19.0]  # of a kind that nothing is known of: all


def table(**columns: list[float]) -> Jobs:
    return Jobs({name: np.array(column) for name, column in columns.items()}, SERVING_JOB_COLUMNS.values())


def test_calls_of_a_program_go_together_and_who_waits_too_long_goes_first() -> None:
    order = SERVING_ORDERS["dynasor"](patience=10.0)  # type: ignore[call-arg]
    rows: dict[str, list[float]] = {
        "program": [0, 1, 0, 2, 3],
        "program_left": [9, 5, 9, 5, 70],
        "program_release": [0, 2, 0, 1, 3],
        "release": [8, 8, 8, 8, 1],
    }
    keys = order.keys(table(**rows), 12.0)
    first = sorted(range(5), key=lambda row: tuple(keys[row]))
    assert first == [4, 3, 1, 0, 2]


def starts(order: str) -> list[int]:
    """Programs in the order in which their calls begin, one at a time: two that teach what the kinds are like, and later three at once.

    Kind 0 has two rounds of two calls, kind 1 one call. What follows a round comes before the next call begins.
    """
    outputs, kind = [20, 20, 20, 20, 30, 2, 2, 20, 20, 30, 30], np.array([0, 1, 0, 1, 1])
    program = np.array([0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 4])
    parents = [[], [], [0, 1], [0, 1], [], [], [], [5, 6], [5, 6], [], []]
    answers = Answers(
        np.array([len(each) // 2 for each in parents]),
        np.zeros(11, np.bool_),
        np.array([0, 2, 3, 5, 6, 7]),
        np.zeros(7, np.int64),
        np.zeros(5, np.int64),
    )
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in parents])])
    flat = np.array([each for row in parents for each in row])
    tree = Programs(program, offsets, flat, np.zeros(11), kind=kind, answers=answers)
    arrival = np.array([0.0, 0.1, 3.0, 3.0, 3.01])[program]
    work = make_workload(arrival, np.ones(11, np.int64), np.array(outputs), programs=tree)
    made = run(work, order, max_running=1, prefix_caching=False)
    return [int(program[call]) for call in np.argsort(made.seconds[at.SCHEDULED])]


def test_gang_order_differs_from_calls_and_from_shortest_calls() -> None:
    """A program of four calls is longer than one of a single call, though its first calls are short and those that follow shorter than that one."""
    assert starts("fcfs") == [0, 0, 1, 0, 0, 2, 2, 3, 4, 2, 2]  # what follows stands at the end of the line
    assert starts("program_fcfs") == [0, 0, 0, 0, 1, 2, 2, 3, 2, 2, 4]
    assert starts("sjf") == [0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 4]
    assert starts("dynasor") == [0, 0, 0, 0, 1, 3, 4, 2, 2, 2, 2]


# -- scenarios --------------------------------------------------------------------------------------------------------


def document(**changes: Any) -> dict[str, Any]:
    entries = [{"kind": "samples", "count": 8, "rate": 4.0, "rounds": 4, "width": 2, "output": 20}]
    return {"world": "serving", "workload": {"reasoning": entries}, "fleet": [{"model": "llama-3.1-8b", "gpu": "h100"}],
            "policies": [{"name": "a"}], **changes}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"workload": {"reasoning": []}}, "workload.reasoning: is empty"),
        (
            {"workload": {"reasoning": [{"kind": "thoughts", "count": 1, "rate": 1, "width": 2}]}},
            "reasoning.0..width: a chain",
        ),
        (
            {"workload": {"reasoning": [{"kind": "tree", "count": 1, "rate": 1, "answers": {"settle": [0.5, 0.2]}}]}},
            "answers.settle: .least, most.",
        ),
        ({"workload": {"reasoning": [{"kind": "tree", "count": 1, "rate": 1, "widht": 2}]}}, "widht"),
        ({"workload": {**document()["workload"], "first": 3}}, "would cut programs"),
        ({"workload": {**document()["workload"], "arrivals": {"poisson": {"rate": 1}}}}, "make their own arrivals"),
        ({"workload": {**document()["workload"], "generate": {"kind": "chat"}}}, "give one of trace"),
    ],
)
def test_mistakes_in_a_scenario(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        parse(document(**changes), tmp_path)


@pytest.mark.parametrize(
    ("name", "parameter"), [("certaindex", "window"), ("fixed_rounds", "rounds"), ("dynasor", "patience")]
)
def test_parameters_that_mean_nothing(name: str, parameter: str) -> None:
    with pytest.raises(InputError, match=f"{name}: {parameter}"):
        {**STOPPERS, **SERVING_ORDERS}[name](**{parameter: 0})


def test_a_run_of_a_scenario_counts_what_it_spared(tmp_path: Path) -> None:
    given_scenario: Any = parse(document(), tmp_path)
    world, case = given_scenario.world, given_scenario.case
    assert world.random_workload(case)
    assert world.bounds(case, world.workload(case, 0)) == {}
    assert any("8 programs that reason in samples" in text for _, text in world.describe(case))
    work = world.workload(case, 0)
    whole = world.run(case, work, {"name": "whole"}, 0)
    early = world.run(case, work, {"name": "early", "stop": {"certaindex": {"window": 2}}}, 0)
    spared = early.outcomes["status"] == "spared"
    tokens = early.outcomes["output_tokens"]
    assert (whole.outcomes["status"] == "finished").all()
    assert whole.metrics["spared_token_share"] == whole.metrics["programs_early"] == 0
    assert early.metrics["spared_token_share"] == pytest.approx(tokens[spared].sum() / tokens.sum())
    assert 0 < early.metrics["spared_token_share"] < 1
    assert early.metrics["programs_done"] == whole.metrics["programs_done"] == 8
    assert early.metrics["goodput_share"] == 1.0
    assert early.metrics["program_e2e_mean"] < whole.metrics["program_e2e_mean"]


def test_why_nothing_can_be_stopped(tmp_path: Path) -> None:
    changed = document(workload={"programs": {"kind": "chain", "count": 5, "rate": 1.0}})
    given_scenario: Any = parse(changed, tmp_path)
    reason = given_scenario.world.resolve(given_scenario.case, {"name": "it", "stop": "certaindex"}, tmp_path)
    assert "the workload has none with answers" in reason


def test_what_is_to_come_is_known_of_other_programs_too(tmp_path: Path) -> None:
    """Chains of agents have no answers; their lengths are learned all the same."""
    changed = document(workload={"programs": {"kind": "chain", "count": 30, "rate": 4.0}})
    given_scenario: Any = parse(changed, tmp_path)
    made = given_scenario.world.simulation(
        given_scenario.case,
        given_scenario.world.workload(given_scenario.case, 0),
        {"name": "it", "order": "dynasor"},
        0,
    )
    made.run()
    programs = made.workload.programs
    lengths = np.bincount(programs.program, made.workload.output_tokens)
    assert sorted(made.fleet.to_come.history._ended[0]) == sorted(lengths.tolist())
