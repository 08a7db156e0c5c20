"""Power and energy: the kernel says what the readable model says, energy adds up, and clocks do what they should."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError, PolicyError
from rota.kernel.tables import FloatColumn, Hosts
from rota.rules import ORDERS, PLACES
from rota.study.scenario import read
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.energy import Clocks, EnergyPlan
from rota.worlds.serving.fleet import Outage, Plan, Scaling
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.metrics import outcomes, series, summarise
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.policies import CLOCKS, SCALERS
from rota.worlds.serving.power_model import (
    BUSY,
    CAP,
    CLOCK,
    HBM,
    IDLE,
    LIMIT,
    MEMORY,
    GpuPower,
    row_of,
    stretch,
    work_of,
)
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.timing import build
from tests.worlds.serving.test_twin_fleet import Rows, replica, rows_of_requests, workload
from tests.worlds.serving.test_twin_moves import outages, outages_of_hosts

LLAMA, A100 = model("llama-3-8b"), gpu("a100-80g")
ROW = row_of(LLAMA, A100, 1, GpuPower())


def powered(work: Workload, fleet: list[Replica], rows: list[FloatColumn], **more: Any) -> Simulation:
    urgent = more.pop("urgent", [True] * len(fleet))
    plan = EnergyPlan(np.array(rows), np.array(urgent), more.pop("budget", np.inf), more.pop("telemetry", 0.25))
    roles = Roles(
        ORDERS["fcfs"](),
        PLACES["least_outstanding"](),
        ORDERS["fcfs"](),
        clocks=more.pop("clocks", None),
        scale=more.pop("scale", None),
    )
    run = Simulation(work, fleet, roles, plan=Plan(energy=plan, **more))
    run.run()
    return run


def metrics_of(run: Simulation) -> dict[str, float]:
    return summarise(run, outcomes(run, Slo()))


def one(prompt: int, output: int, seconds: float = 0.0) -> Workload:
    return make_workload(np.array([seconds]), np.array([prompt]), np.array([output]))


def test_one_request_by_hand() -> None:
    """Two iterations: a prompt of 10 tokens takes 24 ms, a decode 12 ms. What a board of 400 W draws in each is the model's share of it."""
    run = powered(one(10, 2), [replica()], [ROW])
    work, power = work_of(LLAMA, 1), GpuPower()
    prompt, decode = 0.011 + 10 * 0.0013, 0.011 + 0.0007 + 10 * 0.00003
    watts = [
        400 * power.share(A100, work.of(10, 55.0, 0.0), prompt),
        400 * power.share(A100, work.of(1, 0.0, 10.0), decode),
    ]
    assert metrics_of(run)["energy_kwh"] * 3.6e6 == pytest.approx(watts[0] * prompt + watts[1] * decode)
    # By hand: 7.5e9 weights of 2 bytes in 24 ms of 2,039 GB/s are 0.307 of the bandwidth.
    assert work.dense_bytes == pytest.approx(2 * (8.03e9 - 128256 * 4096), rel=0.001)
    u_m = work.dense_bytes / 2039e9 / prompt
    u_c = (2 * work.dense_bytes / 2 * 10 + work.pair_flops * 55) / 312e12 / prompt
    assert watts[0] / 400 == pytest.approx(0.173 + 0.115 + 0.696 * u_m + 1.645 * u_c)


@pytest.mark.parametrize("clock", [1.0, 0.8, 0.5])
def test_a_slower_clock(clock: float) -> None:
    """Times and watts at a clock are those of the readable model; a prompt stretches like the clock, a decode hardly."""
    row = ROW.copy()
    row[CLOCK] = clock
    run = powered(one(4000, 2), [replica("splitwise", kv_blocks=2000, context_limit=8192)], [row])
    plain = powered(one(4000, 2), [replica("splitwise", kv_blocks=2000, context_limit=8192)], [ROW])
    long, short = (each.seconds[at.FIRST_TOKEN, 0] for each in (run, plain))
    assert long / short == pytest.approx(1 / clock, rel=0.01)
    last = [each.seconds[at.FINISH, 0] - each.seconds[at.FIRST_TOKEN, 0] for each in (run, plain)]
    assert 1.0 <= last[0] / last[1] < 1.001


@given(prompt=st.integers(1, 60), output=st.integers(1, 12), clock=st.floats(0.15, 1.0), tp=st.sampled_from([1, 2, 8]))
def test_every_iteration_draws_what_the_readable_model_says(prompt: int, output: int, clock: float, tp: int) -> None:
    """One request alone: its iterations one after the other, at any clock, on one to eight GPUs."""
    row = row_of(LLAMA, A100, tp, GpuPower())
    row[CLOCK] = clock
    run = powered(one(prompt, output), [replica("splitwise", kv_blocks=60, context_limit=128)], [row])
    work, power, rate = work_of(LLAMA, tp), GpuPower(), A100.bf16
    joules = took = 0.0
    for step in range(output):
        context = 0 if step == 0 else prompt + step - 1
        each = work.of(prompt, prompt * (prompt + 1) / 2, 0.0) if step == 0 else work.of(1, 0.0, context)
        seconds = 0.011 + 0.0013 * prompt if step == 0 else 0.011 + 0.0007 + 0.00003 * context
        longer = stretch(each.flops / rate, each.bytes / A100.bandwidth, clock)
        joules += tp * A100.tdp * power.share(A100, each, seconds, clock) * seconds * longer
        took += seconds * longer
    assert run.seconds[at.FINISH, 0] == pytest.approx(took)
    assert metrics_of(run)["energy_kwh"] * 3.6e6 == pytest.approx(joules)


@given(rows=rows_of_requests)
def test_nothing_changes_at_the_highest_clock(rows: Rows) -> None:
    """Accounting for power moves no token."""
    work, fleet = workload(rows), [replica(), replica(slower=2.0)]
    roles = Roles(ORDERS["fcfs"](), PLACES["least_outstanding"](), ORDERS["fcfs"]())
    plain = Simulation(work, fleet, roles)
    plain.run()
    assert np.array_equal(powered(work, fleet, [ROW, ROW]).seconds, plain.seconds, equal_nan=True)


@given(rows=rows_of_requests, drawn=outages_of_hosts, scaled=st.booleans(), telemetry=st.sampled_from([0.05, 0.3, 7.0]))
def test_energy_adds_up(rows: Rows, drawn: list[tuple[int, int, int]], scaled: bool, telemetry: float) -> None:
    """The integral of the readings is that of the series, and the sum over hosts; never below idle, never above the limit."""
    work = workload(rows)
    lines = [iter([each for each in outages(drawn, 2) if each.host == host]) for host in range(2)]
    scale = SCALERS["reactive"](per_replica=2.0, every=0.1) if scaled else None
    more = {"scaling": Scaling(1, 2, 1, 0.2), "scale": scale} if scaled else {}
    run = powered(work, [replica(), replica()], [ROW, ROW], outages=lines, telemetry=telemetry, **more)
    assert run.fleet is not None
    energy = run.fleet.energy
    assert energy is not None
    found, end = metrics_of(run), float(np.nanmax(run.seconds[at.FINISH]))
    read = sum((watts * length for watts, length in zip(energy.watts, energy.lengths(), strict=True)), np.zeros(2))
    assert read == pytest.approx(energy.joules(end), rel=1e-9)
    assert found["energy_kwh"] * 3.6e6 == pytest.approx(read.sum(), rel=1e-9)
    lines_of = series(run)
    assert lines_of["watts"].sum() * run.clock[at.BIN_SECONDS] == pytest.approx(read.sum(), rel=1e-9)
    on = run.fleet.power.seconds(end)
    assert (energy.joules(end) >= ROW[IDLE] * ROW[LIMIT] * on * (1 - 1e-9)).all()
    assert (energy.joules(end) <= ROW[LIMIT] * on * (1 + 1e-9)).all()
    assert (np.array(energy.watts) <= ROW[LIMIT] * (1 + 1e-9)).all()


@given(rows=rows_of_requests, cap=st.floats(150.0, 400.0))
def test_a_board_keeps_its_cap(rows: Rows, cap: float) -> None:
    """No iteration draws more than the cap, and one that would not is not slowed."""
    row = ROW.copy()
    row[CAP] = cap
    run = powered(workload(rows), [replica(kv_blocks=12)], [row], telemetry=0.01)
    assert run.fleet is not None
    assert run.fleet.energy is not None
    assert (np.array(run.fleet.energy.watts) <= cap * (1 + 1e-9)).all()
    free = powered(workload(rows), [replica(kv_blocks=12)], [ROW], telemetry=0.01)
    late = np.nan_to_num(run.seconds[at.FINISH] - free.seconds[at.FINISH])
    assert cap < 399.0 or not late.any()


def test_half_the_power_as_splitwise_has_it() -> None:
    """Its capped H100 (rows h100-80gb-pcap of the table, half of the board's power) computes prompts 1.3 times slower and decodes as fast; ours within 10 %."""
    llama, h100 = model("llama-2-70b"), gpu("h100")
    timing = build({"linear": {"prefill_tokens": 0.1368 / 2048, "decodes": 0.0310}}, llama, h100, 8, Path())
    fleet = [replace(replica("splitwise", kv_blocks=2000, context_limit=8192), timing=timing)]
    times = []
    for share in (np.inf, 0.5):
        row = row_of(llama, h100, 8, GpuPower())
        row[CAP] = share * row[LIMIT]
        run = powered(one(2048, 2), fleet, [row])
        times.append((run.seconds[at.FIRST_TOKEN, 0], run.seconds[at.FINISH, 0] - run.seconds[at.FIRST_TOKEN, 0]))
    assert times[1][0] / times[0][0] == pytest.approx(1.3, rel=0.1)
    assert times[1][1] == pytest.approx(times[0][1])


# -- policies -----------------------------------------------------------------------------------------------------


def table(**columns: Any) -> Hosts:
    from rota.worlds.serving.energy import ENERGY_COLUMNS

    rows = max(np.size(column) for column in columns.values())
    values = {name: np.broadcast_to(np.asarray(column, np.float64), rows) for name, column in columns.items()}
    return Hosts(values, ENERGY_COLUMNS.values(), rows=rows)


def test_polca_step_by_step() -> None:
    """Two low and two high servers, budget 1,000 W, no delay: thresholds up, hysteresis down, the brake at the budget."""
    policy = CLOCKS["polca"](delay=0.0)

    def asked(watts: float, now: float) -> list[float]:
        hosts = table(watts=[watts / 4] * 4, urgent=[1.0, 1.0, 0.0, 0.0], budget_watts=[1000.0] * 4)
        return policy.clocks(hosts, now).tolist()

    assert asked(700, 0.0) == [1.0, 1.0, 1.0, 1.0]
    assert asked(810, 2.0) == [1.0, 1.0, 0.904, 0.904]  # above the first threshold
    assert asked(780, 4.0) == [1.0, 1.0, 0.904, 0.904]  # below it, not by 5 %
    assert asked(900, 6.0) == [1.0, 1.0, 0.787, 0.787]  # above the second
    assert asked(900, 8.0) == [0.926, 0.926, 0.787, 0.787]  # still: high priority, too
    assert asked(860, 10.0) == [0.926, 0.926, 0.787, 0.787]
    assert asked(830, 12.0) == [1.0, 1.0, 0.904, 0.904]  # 5 % below the second
    assert asked(1001, 14.0) == [0.204] * 4  # the brake
    assert asked(890, 16.0) == [0.204] * 4  # until it is below the second threshold
    assert asked(740, 18.0) == [1.0, 1.0, 1.0, 1.0]


def test_polcas_commands_take_their_time() -> None:
    policy = CLOCKS["polca"](delay=40.0)
    hosts = table(watts=[850.0, 0.0], urgent=[1.0, 0.0], budget_watts=[1000.0, 1000.0])
    found = [policy.clocks(hosts, now).tolist()[1] for now in (0.0, 20.0, 40.0)]
    assert found == [1.0, 1.0, 0.904]


def test_the_slowest_clock_in_time() -> None:
    """All memory: the slowest. All arithmetic at 30 ms: 0.75 keeps 40 ms. Arithmetic for half of the time: not below 0.85 with a load of 0.6."""
    policy = CLOCKS["greener"](tpot=0.04, load=0.6)
    hosts = table(busy=[1.0, 0.3, 0.5, 0.9], compute_share=[0.0, 1.0, 1.0, 1.0], step_seconds=[0.03, 0.03, 0.01, 0.1])
    assert policy.clocks(hosts, 0.0) == pytest.approx([0.4, 0.75, 0.85, 1.0])


def test_less_energy_within_the_limits() -> None:
    """Greener on one replica that decodes: less energy, and the time a token stays below its limit."""
    work = make_workload(np.arange(40) * 0.05, np.full(40, 8), np.full(40, 24))
    fleet = [replica(max_running=4, kv_blocks=200)]
    plain = powered(work, fleet, [ROW])
    green = powered(work, fleet, [ROW], clocks=CLOCKS["greener"](tpot=0.04, every=0.2))
    assert metrics_of(green)["energy_kwh"] < 0.95 * metrics_of(plain)["energy_kwh"]
    assert np.nanmax(outcomes(green, Slo())["tpot"]) < 0.04


class Silly(Clocks):
    """Answers with no clock."""

    reads = ("clock",)

    def clocks(self, hosts: Hosts, now: float) -> FloatColumn:
        return np.zeros(len(hosts))


def test_an_answer_that_is_no_clock() -> None:
    work = make_workload(np.arange(40) * 0.2, np.full(40, 8), np.full(40, 4))
    with pytest.raises(PolicyError, match=r"Silly: clocks at 2 s must be a share from 0.1 to 1"):
        powered(work, [replica()], [ROW], clocks=Silly())


@pytest.mark.parametrize(("settings", "message"), [
    ({"first": 0.95}, "needs 0 < hysteresis < first < second"),
    ({"brake": 0.9}, "clocks need 0.1 <= brake"),
])  # fmt: skip
def test_polca_with_contradictions(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CLOCKS["polca"](**settings)


@pytest.mark.parametrize(("change", "message"), [
    ("power.cap=100", "power.cap: 100 W is not above what the fleet draws idle, 138 W"),
    ("power.board_cap=60", r"power.board_cap: 60 W is not above what fleet\[0\]'s a100-80g draws idle, 69 W"),
    ("power.kap=100", "unknown key 'kap'"),
    ("power.clock=1.5", "power.clock"),
])  # fmt: skip
def test_what_cannot_be(change: str, message: str, repository: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(repository / "examples/serving/energy.yaml", [change])


def test_clocks_without_power(repository: Path) -> None:
    scenario = read(repository / "examples/serving/energy.yaml", ["power=null"])
    reason = scenario.world.resolve(scenario.case, scenario.policies[1], repository)
    assert reason is not None
    assert "accounts for no power" in reason


def test_shares_can_be_given() -> None:
    row = row_of(LLAMA, A100, 2, GpuPower(idle=0.2, busy=0.1), other=40.0)
    assert row[[IDLE, BUSY, MEMORY, LIMIT]].tolist() == pytest.approx([0.3, 0.1, 0.696, 800.0])
    assert row[HBM] == pytest.approx(2039e9 * 8 * 3.92e-12 / 400)
    assert replace(GpuPower(), idle=0.2).idle == 0.2
    assert Outage(0, 1.0, 2.0).is_crash
