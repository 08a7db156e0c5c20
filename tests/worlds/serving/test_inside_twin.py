"""Past-Future, S3 and layered prefill equal their slow twins, and keep the rules of every run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.worlds.serving.batching import BatchRules, Engine
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.policies import S3, LayeredPrefill, PastFuture, SemiPD
from rota.worlds.serving.replica import Replica
from rota.worlds.serving.timing import build
from tests.worlds.serving.twin import FCFS, Told, compare

LINEAR = {"constant": 0.011, "prefill_tokens": 0.0013, "decodes": 0.0007, "decode_context": 0.00003}
ENGINE = Engine(12, 4, 4, 16, 40, 6)
MADE = {
    **{
        name: PastFuture(estimate=name, max_new_tokens=16, window=3, reserved=0.0)
        for name in ("sample", "limit", "released")
    },  # type: ignore[arg-type]
    "quantile": PastFuture(estimate="quantile", max_new_tokens=8, window=5, quantile=0.5, reserved=0.1),
    "s3": S3(bucket_tokens=4),
    "s3 of one token": S3(bucket_tokens=1),
    "layered": LayeredPrefill(chunk_tokens=3),
    "layered, pieces": LayeredPrefill(chunk_tokens=2, most_tokens=7),
    "semi_pd": SemiPD(share=0.4, control_seconds=0.0),
    "semi_pd, controlled": SemiPD(share=0.5, control_seconds=0.25, ttft=0.1, tpot=0.03, decode_scale=0.7),
}

rows_of_requests = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 20), st.integers(1, 16), st.integers(0, 2)), min_size=1, max_size=20
)
Rows = list[tuple[int, int, int, int]]


def replica(rules: BatchRules, **settings: Any) -> Replica:
    shape: dict[str, Any] = {"kv_blocks": 12, "block_tokens": 4, "max_running": 4, "context_limit": 64} | settings
    timing = build({"linear": LINEAR}, model("llama-3-8b"), gpu("a100-80g"), 1, Path())
    return Replica("tiny", rules=rules, timing=timing, prefill_rate=2.0**-10, decode_rate=2.0**-7, **shape)


def workload(rows: Rows) -> Workload:
    rows = sorted(rows, key=lambda row: row[0])
    time, prompt, output, priority = (np.array(column) for column in zip(*rows, strict=True))
    return make_workload(time * 0.0625, prompt, output, priority=priority)


def by_priority(preemptive: bool = False) -> Told:
    return Told(lambda number, release, prompt, output, priority, *_: (priority,), "arrival", preemptive)


@pytest.mark.parametrize("name", MADE)
@given(rows=rows_of_requests, noise=st.integers(0, 10))
def test_equals_the_slow_twin(name: str, rows: Rows, noise: int) -> None:
    """With predictions that are wrong by up to `noise` tokens either way, which S3 must repair."""
    work = workload(rows)
    wrong = (np.arange(len(work)) * 7919) % (2 * noise + 1) - noise
    compare(work, [replica(MADE[name].rules(ENGINE))], FCFS(), visible=np.maximum(work.output_tokens + wrong, 1.0))


@pytest.mark.parametrize("name", ["sample", "limit", "layered", "layered, pieces"])
@given(rows=rows_of_requests)
def test_with_priorities_that_displace(name: str, rows: Rows) -> None:
    compare(workload(rows), [replica(MADE[name].rules(ENGINE))], by_priority(preemptive=True))


@pytest.mark.parametrize("name", ["sample", "s3", "layered", "semi_pd, controlled"])
@settings(max_examples=25)
@given(rows=rows_of_requests)
def test_on_two_replicas_with_another_beside_them(name: str, rows: Rows) -> None:
    """Mechanisms belong to a host: a plain replica beside them is not touched."""
    plain = BatchRules(budget=16, chunked=True)
    compare(workload(rows), [replica(MADE[name].rules(ENGINE)), replica(plain)], FCFS(), route="least_outstanding")


def lived(asked: str) -> Told:
    return Told(lambda number, release, prompt, output, priority, generated, *_: (-generated,), asked)


@pytest.mark.parametrize("name", ["sample", "layered", "semi_pd"])
@pytest.mark.parametrize("asked", ["decision", "pick"])
@settings(max_examples=40)
@given(rows=rows_of_requests)
def test_with_an_order_that_is_asked(asked: str, name: str, rows: Rows) -> None:
    compare(workload(rows), [replica(MADE[name].rules(ENGINE))], lived(asked))


@pytest.mark.parametrize("name", ["sample", "layered", "semi_pd"])
@pytest.mark.parametrize("victim", ["arrival", "decision"])
@settings(max_examples=40)
@given(rows=rows_of_requests)
def test_with_a_victim_role(victim: str, name: str, rows: Rows) -> None:
    shortest = Told(lambda number, release, prompt, *_: (prompt,), victim)
    compare(workload(rows), [replica(MADE[name].rules(ENGINE), kv_blocks=9)], FCFS(), victim=shortest)


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=25)
@given(rows=rows_of_requests)
def test_nothing_is_lost(name: str, rows: Rows) -> None:
    work = workload(rows)
    run = compare(work, [replica(MADE[name].rules(ENGINE))], FCFS())
    done = run.jobs[at.STATE] == at.FINISHED_STATE
    assert (done | (run.jobs[at.STATE] == at.REJECTED)).all()
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    if not run.jobs[
        at.PREEMPTIONS
    ].any():  # every prompt token is computed once, every other token of an answer takes a decode
        tokens = work.prompt_tokens[done].sum() + (work.output_tokens[done] - 1).sum()
        assert run.hosts[0, at.BATCHED_TOKENS] == tokens
