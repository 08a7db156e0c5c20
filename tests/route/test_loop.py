"""The loop on a recording whose truth is known: what a replay predicts is what the simulator that made it does."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from rota.cli.loop import run_loop
from rota.kernel.errors import InputError
from rota.route.decide import _spelt
from rota.route.loop import league, rates, spec, split
from rota.route.replay import Shape, measured, read_replay
from rota.study.scenario import parse
from tests.route.stub import Stub, routed

SPEEDS = (1.0, 0.8, 0.6, 0.5)
BASE = {"constant": 0.006, "prefill_tokens": 8.0e-5, "decodes": 6.0e-5, "decode_context": 3.0e-8}


def truth(policy: str, requests: int = 2500, rate: float = 8.0) -> tuple[dict[str, Any], dict[str, float]]:
    """Outcomes and metrics of four engines of known speeds."""
    fleet = [
        {
            "model": "llama-3.1-8b",
            "gpu": "h100",
            "timing": {"linear": {key: value / speed for key, value in BASE.items()}},
        }
        for speed in SPEEDS
    ]
    workload = {"generate": {"kind": "chat", "requests": requests, "rate": rate}}
    information = {"output_tokens": {"predicted": {"error": 0.5}}}
    policies = [{"name": policy, "route": policy}]
    made = parse(
        {"world": "serving", "workload": workload, "fleet": fleet, "information": information, "policies": policies},
        Path(),
    )
    result = made.world.run(made.case, made.world.workload(made.case, 0), made.policies[0], 0)
    return dict(result.outcomes), result.metrics


def record(folder: Path, policy: str = "round_robin", **options: Any) -> None:
    rows, _ = truth(policy, **options)
    write_recording(folder, policy, rows, [-1] * len(rows["job"]))


def write_recording(folder: Path, policy: str, rows: dict[str, Any], session: Any) -> None:
    count = len(rows["job"])
    start = datetime(2025, 1, 1, tzinfo=UTC)
    folder.mkdir()
    pl.DataFrame(
        {
            "arrival": [start + timedelta(seconds=float(each)) for each in rows["arrival"]],
            "dispatched": rows["dispatched"] - rows["arrival"],
            "first_token": rows["ttft"],
            "finish": rows["e2e"],
            "prompt_tokens": rows["prompt_tokens"],
            "output_tokens": rows["output_tokens"],
            "cached_tokens": pl.Series([None] * count, dtype=pl.Int64),
            "predicted_tokens": rows["output_tokens"].astype(float),
            "tenant": [""] * count,
            "session": session,
            "priority": [0] * count,
            **{f"{name}_limit": pl.Series([None] * count, dtype=pl.Float64) for name in ("ttft", "tpot", "e2e")},
            "stream": [True] * count,
            "outcome": ["complete"] * count,
            "policy": [policy] * count,
            "backend": ["abcd"[host] for host in rows["replica"]],
        }
    ).write_parquet(folder / "part-000000000000.parquet")


def test_the_replay_predicts_policies_that_were_not_recorded(tmp_path: Path) -> None:
    record(tmp_path / "recording")
    replay = read_replay(tmp_path / "recording", Shape())
    assert replay.backends == list("abcd")
    table = league(replay, ["round_robin", "least_outstanding", "power_of_two", "least_work"], "ttft_p90")
    assert table[0].policy == "least_work"
    assert max(replay.off.values()) < 0.02
    assert [row.recorded for row in table].count(True) == 1
    for row in table:
        _, really = truth(row.policy)
        for name in ("ttft_mean", "e2e_mean"):
            assert row.metrics[name] == pytest.approx(really[name], rel=0.05), (row.policy, name)
    seen = measured(replay.rows)
    [recorded] = [row for row in table if row.recorded]
    for name in ("e2e_mean", "tpot_mean"):
        assert seen[name] == pytest.approx(recorded.metrics[name], rel=0.05)
    found = rates(replay)
    assert found["d"][1] / found["a"][1] == pytest.approx(2.0, rel=0.15)


def test_several_policies_or_wrong_names_are_mistakes(tmp_path: Path) -> None:
    record(tmp_path / "recording", requests=400)
    replay = read_replay(tmp_path / "recording", Shape())
    with pytest.raises(InputError, match="did you mean 'ttft_p99' or 'ttft_p90'"):
        league(replay, ["round_robin"], "ttft_p9")
    with pytest.raises(InputError, match="unknown place 'least_outstandin'"):
        league(replay, ["least_outstandin"], "ttft_p90")
    file = tmp_path / "recording" / "part-000000000000.parquet"
    frame = pl.read_parquet(file)
    mixed = [("x", "y")[k % 2] for k in range(len(frame))]
    frame.with_columns(policy=pl.Series(mixed)).write_parquet(file)
    with pytest.raises(InputError, match=r"recorded under 2 policies \(x, y\); choose one with --under"):
        league(read_replay(tmp_path / "recording", Shape()), ["round_robin"], "ttft_p90")


def chains(policy: str) -> tuple[dict[str, Any], dict[str, float], Any]:
    """Conversations whose next request waits for the last answer, on the engines of `truth`."""
    fleet = [
        {"model": "llama-3.1-8b", "gpu": "h100", "timing": {"linear": {key: value / speed for key, value in BASE.items()}}}
        for speed in SPEEDS
    ]  # fmt: skip
    programs = {"kind": "chain", "count": 250, "rate": 1.3, "calls": 8, "delay": 1.0, "output": 200.0}
    made = parse(
        {
            "world": "serving",
            "workload": {"programs": programs},
            "fleet": fleet,
            "information": {"output_tokens": {"predicted": {"error": 0.5}}},
            "policies": [{"name": policy, "route": policy}],
        },
        Path(),
    )
    work = made.world.workload(made.case, 0)
    result = made.world.run(made.case, work, made.policies[0], 0)
    return dict(result.outcomes), result.metrics, work


def test_requests_that_wait_for_answers_wait_in_the_replay(tmp_path: Path) -> None:
    rows, _, work = chains("round_robin")
    write_recording(tmp_path / "recording", "round_robin", rows, work.session[rows["job"]])
    following = league(read_replay(tmp_path / "recording", Shape()), ["least_work"], "ttft_p90")
    fixed = league(read_replay(tmp_path / "recording", Shape(), follow=False), ["least_work"], "ttft_p90")
    off = {}
    for how, table in (("following", following), ("fixed", fixed)):
        assert table[0].policy == "least_work"
        _, really, _ = chains("least_work")
        off[how] = max(abs(table[0].metrics[name] / really[name] - 1) for name in ("ttft_mean", "e2e_mean"))
    assert off["following"] < 0.05
    assert off["following"] < off["fixed"]


@pytest.mark.parametrize(
    "workload, said",
    [
        ({"trace": "recording", "follow": True, "first": 5}, "workload.first: would cut programs in the middle"),
        ({"trace": "recording", "follow": True, "arrivals": {"poisson": {"rate": 1.0}}}, "make their own arrivals"),
        ({"trace": "t.csv", "under": "round_robin"}, "is no folder of a recording; leave out 'under'"),
        ({"trace": "t.csv", "follow": True}, "is no folder of a recording; leave out 'follow'"),
        ({"trace": "recording", "under": "round_robbin"}, "did you mean 'round_robin'"),
    ],
)
def test_what_is_about_recordings_is_for_recordings(workload: dict[str, Any], said: str, tmp_path: Path) -> None:
    record(tmp_path / "recording", requests=100)
    (tmp_path / "t.csv").write_text("arrival,prompt_tokens,output_tokens\n0,5,5\n")
    fleet = [{"model": "llama-3.1-8b", "gpu": "h100"}]
    document = {"world": "serving", "workload": workload, "fleet": fleet, "policies": [{"name": "any"}]}

    def drawn() -> Any:
        made = parse(document, tmp_path)
        return made.world.workload(made.case, 0)

    with pytest.raises(InputError, match=said):
        drawn()


def test_one_of_several_recorded_policies_is_replayed(tmp_path: Path) -> None:
    record(tmp_path / "recording")
    alone = league(read_replay(tmp_path / "recording", Shape()), ["least_work"], "e2e_mean")
    file = tmp_path / "recording" / "part-000000000000.parquet"
    frame = pl.read_parquet(file)
    later = frame.with_columns(policy=pl.lit("least_work"), arrival=pl.col("arrival") + timedelta(hours=1))
    later.write_parquet(tmp_path / "recording" / "part-000000000001.parquet")
    replay = read_replay(tmp_path / "recording", Shape(), "round_robin")
    found = league(replay, ["least_work"], "e2e_mean")
    assert [(row.policy, row.metrics["e2e_mean"], row.recorded) for row in found] == [
        (row.policy, row.metrics["e2e_mean"], row.recorded) for row in alone
    ]
    assert parse({**replay.document, "policies": [{"name": "any"}]}, tmp_path).case.workload.under == "round_robin"
    with pytest.raises(InputError, match="nothing was recorded under 'round_robbin'; did you mean 'round_robin'"):
        read_replay(tmp_path / "recording", Shape(), "round_robbin")


def test_a_policy_with_parameters_is_spelt_as_the_router_spells_it(tmp_path: Path) -> None:
    assert split("a, b(c=1, d=[2, 3]),e:F") == ["a", "b(c=1, d=[2, 3])", "e:F"]
    assert spec("power_of_two") == "power_of_two"
    for written in ({"power_of_two": {"d": 3}}, {"kv_router": {"weight": 0.5, "other": "x"}}):
        assert spec(_spelt(written)) == written
    for wrong in ("power_of_two(d=3", "power_of_two(d)", "power_of_two(d={)"):
        with pytest.raises(InputError, match="expected parameters as in"):
            spec(wrong)
    record(tmp_path / "recording", requests=800)
    file = tmp_path / "recording" / "part-000000000000.parquet"
    pl.read_parquet(file).with_columns(policy=pl.lit("power_of_two(d=2)")).write_parquet(file)
    table = league(read_replay(tmp_path / "recording", Shape()), ["power_of_two", "power_of_two(d=4)"], "ttft_p90")
    by_name = {row.policy: row.metrics["e2e_mean"] for row in table}
    assert by_name["power_of_two(d=2)"] == by_name["power_of_two"] != by_name["power_of_two(d=4)"]


def test_the_winner_is_applied_to_a_running_router(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "recording", requests=800)

    async def run() -> None:
        stubs = [Stub() for _ in SPEEDS]
        async with routed(tmp_path, stubs, admin="admin.sock", policy={"place": "round_robin"}) as setup:
            await asyncio.to_thread(
                run_loop, tmp_path / "recording", ["least_work"], "e2e_mean", Shape(), tmp_path / "admin.sock", 0.0,
                tmp_path / "replay.yaml", True,
            )  # fmt: skip
            router = setup.running.router
            assert router.decisions.name == "least_work"
            slow, fast = router.fleet.backends["d"].rates(), router.fleet.backends["a"].rates()
            assert slow[1] / fast[1] == pytest.approx(2.0, rel=0.2)

    asyncio.run(run())
    said = json.loads(capsys.readouterr().out)
    assert said["applied"] == "least_work"
    assert abs(said["replay_error"]["e2e_mean"]) < 0.05
    from rota.study.scenario import read

    assert len(read(tmp_path / "replay.yaml").policies) == 2


def test_a_running_router_is_replayed_under_the_policy_that_it_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "recording", requests=800)
    file = tmp_path / "recording" / "part-000000000000.parquet"
    frame = pl.read_parquet(file)
    earlier = frame.with_columns(policy=pl.lit("random"), arrival=pl.col("arrival") - timedelta(hours=1))
    earlier.write_parquet(tmp_path / "recording" / "part-000000000001.parquet")

    async def run(folder: Path, **settings: Any) -> None:
        folder.mkdir()
        async with routed(folder, [Stub()], admin="admin.sock", policy={"place": "round_robin"}, **settings):
            await asyncio.to_thread(
                run_loop, folder / "admin.sock", ["least_work"], "e2e_mean", Shape(), None, 0.0, None, True
            )

    asyncio.run(run(tmp_path / "with", recording={"folder": "../recording"}))
    said = json.loads(capsys.readouterr().out)
    assert [row["recorded"] for row in said["league"] if row["policy"] == "round_robin"] == [True]
    assert abs(said["replay_error"]["e2e_mean"]) < 0.05
    with pytest.raises(InputError, match="that router records nothing"):
        asyncio.run(run(tmp_path / "without"))


def test_an_overloaded_backend_is_pointed_out(tmp_path: Path) -> None:
    record(tmp_path / "recording", rate=14.0)  # round robin gives the slowest engine more than it can do
    replay = read_replay(tmp_path / "recording", Shape())
    assert replay.off["a"] < 0.02
    assert replay.off["d"] > 0.05


def test_fit_timing_reads_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rota.cli.fit_timing import fit_timing

    record(tmp_path / "recording")
    fit_timing(tmp_path / "recording", tmp_path / "fleet.yaml", 1)
    fleet = yaml.safe_load((tmp_path / "fleet.yaml").read_text())["fleet"]
    assert [group["timing"]["linear"]["constant"] for group in fleet] == pytest.approx(
        [BASE["constant"] / speed for speed in SPEEDS], rel=0.05
    )
    assert "held-out" in capsys.readouterr().out
