"""A recording: what is in it, what survives, and that it is a trace."""

import asyncio
import os
import signal
import socket
import sys
import time
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import polars as pl
import pytest
import yaml

from rota.kernel.errors import InputError
from rota.route.job import Job
from rota.route.log import Log
from rota.route.record import Recorder
from rota.route.settings import Recording, TenantSettings
from rota.route.tenants import Tenant
from rota.worlds.serving.read import read_trace
from rota.worlds.serving.recording import conversations, files, rows
from tests.route.stub import QUICK, Stub, routed, until
from tests.route.test_proxy import CHAT, STREAM, chat

LONG = "a prompt that nobody may find in a file " * 40


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {
        **STREAM,
        "messages": [{"role": "user", "content": text}],
        "stream_options": {"include_usage": True},
        **more,
    }


def test_a_row_a_request_and_it_replays(tmp_path: Path) -> None:
    folder = tmp_path / "recording"

    async def run() -> None:
        stub = Stub(pause=0.01)
        settings = {"recording": {"folder": "recording", "flush_seconds": 0.05}, "prefix": {"block_tokens": 2}}
        async with routed(tmp_path, [stub, Stub(pause=0.01)], **settings) as setup:
            for headers in ({"x-session-id": "s1", "x-slo-ttft-ms": "250"}, {"x-session-id": "s1"}, {}):
                async with chat(setup, ask(LONG), headers=headers) as answer:
                    assert answer.status == 200
                    await answer.read()
            async with chat(setup, CHAT) as answer:
                assert answer.status == 200
            async with chat(setup, ask(LONG, model="unknown")) as answer:
                assert answer.status == 404
            for each in setup.stubs:
                each.status = 400
            async with chat(setup) as answer:
                assert answer.status == 400

    asyncio.run(run())
    every = rows(folder)
    assert every["outcome"].to_list() == ["complete"] * 4 + ["refused"] * 2
    good = every[:4]
    assert good["prompt_tokens"].to_list() == [7] * 4
    assert good["output_tokens"].to_list() == [5] * 4
    assert good["counted"].all()
    assert good["backend"].to_list() == ["a", "b", "a", "b"]
    assert good["cost_of"].to_list() == [["a", "b"]] * 4
    stream = good[0].to_dicts()[0]
    assert 0 <= stream["dispatched"] < stream["first_token"] < stream["finish"] < 5
    assert stream["session"] == good["session"][1] > 0
    assert good["session"][2] == -1
    assert stream["ttft_limit"] == 0.25
    assert stream["prefix_blocks_2"] == good["prefix_blocks_2"][1].to_list()
    assert len(stream["prefix_blocks_2"]) == 3
    for file in folder.iterdir():
        assert b"nobody" not in file.read_bytes()
    work = read_trace(folder)
    assert len(work) == 4
    assert work.arrival[0] == 0
    assert work.prefix is not None
    assert work.prefix.block_tokens == 2
    assert np.isclose(work.ttft_limit[0], 0.25)
    assert any("left out" in notice for notice in work.notices)


def test_rota_run_replays_a_recording(tmp_path: Path) -> None:
    from rota.study.scenario import read
    from rota.worlds.serving.world import Serving

    test_a_row_a_request_and_it_replays(tmp_path)
    scenario = tmp_path / "replay.yaml"
    document = {
        "world": "serving",
        "workload": {"trace": "recording"},
        "fleet": [{"model": "llama-3.1-8b", "gpu": "a100-80g", "prefix_caching": True}],
        "policies": [{"name": "p", "route": "least_outstanding"}],
    }
    scenario.write_text(yaml.safe_dump(document))
    made = read(scenario)
    world = Serving()
    result = world.run(made.case, world.workload(made.case, 0), made.policies[0], 0)
    assert result.metrics["throughput_requests"] > 0
    assert len(result.outcomes["job"]) == 4


def part(folder: Path, count: int) -> Recorder:
    async def run() -> Recorder:
        recorder = Recorder(Recording(str(folder)), folder, 16, Log("error", time.time, StringIO()))
        recorder.open()
        for number in range(count):
            job = Job(number, 0.0, 1e9 + number, Tenant(0, TenantSettings("t")), "m", "/v1/completions", True, True)
            job.outcome, job.status = "complete", 200
            recorder.add(job, "a", 1.0, 10, 5, "p")
            await recorder.flush()
        return recorder

    return asyncio.run(run())


def test_rotation_keeps_every_row_once_wherever_it_is_interrupted(tmp_path: Path) -> None:
    recorder = part(tmp_path, 3)
    names = [each.name for each in tmp_path.iterdir()]
    assert len(names) == 3
    kept = {name: (tmp_path / name).read_bytes() for name in names}
    recorder._rotate()
    assert [each.name for each in files(tmp_path)] == ["requests-000000000000-000000000002.parquet"]
    for name, data in kept.items():  # killed after the new file had its name, before the old ones were removed
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".writing-part-000000000003.parquet").write_bytes(b"half")
    assert len(rows(tmp_path)) == 3
    part(tmp_path, 2)  # a new start cleans up and counts on
    assert len(rows(tmp_path)) == 5
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "part-000000000003.parquet",
        "part-000000000004.parquet",
        "requests-000000000000-000000000002.parquet",
    ]


def test_a_damaged_or_empty_recording_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without a recording"):
        read_trace(tmp_path)
    (tmp_path / "part-000000000000.parquet").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a Parquet file"):
        read_trace(tmp_path)
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "part-000000000000.parquet")
    with pytest.raises(InputError, match="has no column"):
        read_trace(tmp_path)


def test_a_full_disk_loses_nothing_while_it_lasts_a_little(tmp_path: Path) -> None:
    async def run() -> None:
        settings = {"recording": {"folder": "recording", "flush_seconds": 0.05}}
        async with routed(tmp_path, [Stub()], **settings) as setup:
            recorder = setup.running.router.recorder
            assert recorder is not None
            write = recorder._write_part

            def refuse(rows: list[dict[str, Any]]) -> None:
                raise OSError(28, "No space left on device")

            recorder._write_part = refuse  # type: ignore[method-assign]
            async with chat(setup) as answer:
                assert answer.status == 200
            await until(lambda: setup.log.of("recording not written"))
            recorder._write_part = write  # type: ignore[method-assign]
            await until(lambda: recorder.written == 1)

    asyncio.run(run())


def test_a_kill_loses_only_what_was_not_flushed(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub()
        await stub.start()
        config = tmp_path / "route.yaml"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        document = {
            **QUICK,
            "listen": f"127.0.0.1:{port}",
            "backends": [{"url": stub.url}],
            "recording": {"folder": "r", "flush_seconds": 0.1},
        }
        config.write_text(yaml.safe_dump(document))
        router = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "rota.cli.main",
            "route",
            str(config),
            stderr=asyncio.subprocess.PIPE,
            env=dict(os.environ),
        )
        assert router.stderr is not None
        async with asyncio.timeout(60):
            while b"listening" not in await router.stderr.readline():
                pass
        async with aiohttp.ClientSession() as client:
            for _ in range(5):
                async with client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=CHAT) as answer:
                    assert answer.status == 200
            await until(lambda: recorded(tmp_path / "r") == 5, 60)  # flushed, whenever the machine gets to it
            async with client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=CHAT) as answer:
                assert answer.status == 200
        router.send_signal(signal.SIGKILL)
        await router.wait()
        await stub.stop()

    asyncio.run(run())
    assert len(read_trace(tmp_path / "r")) in (5, 6)  # the last one may not have been flushed


def recorded(folder: Path) -> int:
    return len(rows(folder)) if any(folder.glob("part-*.parquet")) else 0


def test_who_waited_for_whom() -> None:
    """A plan; two searches beside each other; a summary of both; something beside it; and a stranger without a session."""
    #        plan  search search alone summary beside
    times = [(0.0, 2.0), (3.0, 4.0), (3.5, 9.0), (5.0, 1.0), (13.0, 3.0), (14.0, 1.0)]
    session = [7, 7, 7, -1, 7, 7]
    start = datetime(2025, 1, 1, tzinfo=UTC)
    served = pl.DataFrame(
        {
            "arrival": [start + timedelta(seconds=arrival) for arrival, _ in times],
            "finish": [seconds for _, seconds in times],
            "session": session,
        }
    )
    found = conversations(served)
    waited = [found.parents[a:b].tolist() for a, b in pairwise(found.offsets.tolist())]
    assert waited == [[], [0], [0], [], [1, 2], [1, 2]]
    assert found.delay.tolist() == pytest.approx([0.0, 1.0, 1.5, 0.0, 0.5, 1.5])
    assert found.program.tolist() == [0, 0, 0, 1, 0, 0]
