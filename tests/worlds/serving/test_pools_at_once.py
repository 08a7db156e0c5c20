"""Pools, outages, scaling, clocks, swapping and short memory together: nothing is lost or served twice, blocks and energy add up."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.rules import ORDERS, PLACES
from rota.worlds.serving.energy import EnergyPlan
from rota.worlds.serving.fleet import Plan, Scaling
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.links import Link
from rota.worlds.serving.metrics import outcomes, series, summarise
from rota.worlds.serving.policies import CLOCKS, POOLS, SCALERS
from rota.worlds.serving.power_model import LIMIT
from rota.worlds.serving.replica import Roles
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.verify import verify
from tests.worlds.serving.test_energy import ROW
from tests.worlds.serving.test_twin_fleet import Rows, replica, rows_of_requests, workload
from tests.worlds.serving.test_twin_moves import outages, outages_of_hosts
from tests.worlds.serving.test_twin_pools import blocks_in_use_are_there

HOME = ("prefill", "decode", "mixed", "mixed")


@pytest.mark.parametrize("pool", ["mixed_pool", "accellm", "together", None])
@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "splitwise"])
@given(
    rows=rows_of_requests,
    drawn=outages_of_hosts,
    blocks=st.integers(10, 20),
    room=st.integers(0, 8),
    push=st.booleans(),
    scaled=st.booleans(),
)
def test_conservation(
    name: str,
    pool: str | None,
    rows: Rows,
    drawn: list[tuple[int, int, int]],
    blocks: int,
    room: int,
    push: bool,
    scaled: bool,
) -> None:
    work = workload(rows)
    swap = {"swap_blocks": room, "swap_bandwidth": 2048.0, "kv_bytes": 16.0}
    fleet = [replace(replica(name, kv_blocks=blocks, **swap), role=role) for role in HOME]
    away = outages(drawn, 4)
    roles = Roles(
        ORDERS["fcfs"](),
        PLACES["least_outstanding"](),
        ORDERS["fcfs"](),
        decode=PLACES["least_outstanding"](),
        scale=SCALERS["reactive"](per_replica=2.0, every=0.1) if scaled else None,
        pool=POOLS[pool]() if pool else None,
        clocks=CLOCKS["polca"](delay=0.2, every=0.1),
    )
    plan = Plan(
        Link(1024.0, 0.015625, 0.5, push=push),
        outages=[iter([each for each in away if each.host == host]) for host in range(4)],
        scaling=Scaling(3, 4, 3, 0.2),
        energy=EnergyPlan(np.array([ROW] * 4), np.array([True, True, False, False]), 900.0, 0.1),
    )
    run = Simulation(work, fleet, roles, work.output_tokens.astype(np.float64), plan=plan)
    run.run()
    found = outcomes(run, Slo())
    metrics = summarise(run, found)
    assert (found["status"] != "unfinished").all()
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    assert blocks_in_use_are_there(run)
    assert (run.hosts[:, at.SWAP_ROOM] == room).all()
    assert not run.hosts[:, [at.QUEUED_COUNT, at.RUNNING_COUNT, at.DECODES, at.CONTEXT_SUM, at.PAUSED_COUNT]].any()
    done = found["status"] == "finished"
    gaps = (work.output_tokens[done] - 1).sum()
    assert run.histogram[0].sum() == gaps  # every token once
    assert verify(work, run.replicas, found, metrics, series(run), float(run.clock[at.BIN_SECONDS])) == []
    assert run.fleet is not None
    assert run.fleet.energy is not None
    if done.any():
        end = float(found["finish"][done].max())
        lengths = run.fleet.energy.lengths()
        read = sum(float(watts.sum()) * seconds for watts, seconds in zip(run.fleet.energy.watts, lengths, strict=True))
        assert metrics["energy_kwh"] * 3.6e6 == pytest.approx(read, rel=1e-9)
        assert read <= ROW[LIMIT] * run.fleet.power.seconds(end).sum() * (1 + 1e-9)
