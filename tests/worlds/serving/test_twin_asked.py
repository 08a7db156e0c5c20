"""The simulator equals its slow twin where policies are asked: at each decision, at each pick, preemptive, with a victim role, woken."""

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.serving.test_twin_fleet import (
    EVERY_BATCHER,
    FCFS,
    Rows,
    replica,
    rows_of_requests,
    shortest,
    workload,
)
from tests.worlds.serving.twin import Counting, Key, Served, Told, Waking, compare


def aging(asked: str = "decision", preemptive: bool = False) -> Told:
    """Short prompts first, but who waits gains; two columns of keys."""

    def key(number: float, release: float, prompt: float, size: float, priority: float, *moving: float) -> Key:
        preemptions, now = moving[2:4]
        return (float(-(preemptions > 1)), prompt - 16.0 * (now - release))

    return Told(key, asked, preemptive)


def least_served(preemptive: bool = True) -> Told:
    def key(number: float, release: float, prompt: float, size: float, priority: float, *moving: float) -> Key:
        return (moving[0],)  # with the prompt it would displace for ever: what is displaced has lost it

    return Told(key, "decision", preemptive)


def by_priority(preemptive: bool = False, asked: str = "arrival") -> Told:
    return Told(lambda number, release, prompt, output, priority, *_: (priority,), asked, preemptive)


def back_and_forth() -> Told:
    """The shortest prompt, then the longest, in turn: the answer changes with every pick."""

    def key(number: float, release: float, prompt: float, size: float, priority: float, *moving: float) -> Key:
        return (prompt if moving[4] % 2 == 0 else -prompt,)

    return Counting(key, "pick")


def not_before(delay: float, wakes: tuple[float, ...]) -> Told:
    """Nobody goes before he has waited a while; it names when it wants to be asked again."""

    def key(number: float, release: float, prompt: float, size: float, priority: float, *moving: float) -> Key:
        return (0.0,) if moving[3] >= release + delay else (inf,)

    return Waking(key, "decision", wakes=wakes)


@pytest.mark.parametrize(
    "order", [aging, back_and_forth, lambda: shortest("decision")], ids=["aging", "picks", "shortest"]
)
@pytest.mark.parametrize("name", EVERY_BATCHER)
@given(rows=rows_of_requests)
def test_asked(name: str, order: Callable[[], Told], rows: Rows) -> None:
    compare(workload(rows), [replica(name), replica(name, 2.0, kv_blocks=7)], order(), "least_outstanding")


PREEMPTIVE = {
    "priority": lambda: by_priority(True),
    "priority, asked": lambda: by_priority(True, "decision"),
    "aging": lambda: aging(preemptive=True),
    "least served": least_served,
    "least attained": Served,
}


@pytest.mark.parametrize("order", PREEMPTIVE)
@pytest.mark.parametrize(
    "name", [name for name in EVERY_BATCHER if name not in ("semi_pd", "qllm")]
)  # which displace nobody for an order
@given(rows=rows_of_requests)
def test_preemptive(name: str, order: str, rows: Rows) -> None:
    compare(workload(rows), [replica(name, max_running=3)], PREEMPTIVE[order]())


@pytest.mark.parametrize("victim", ["arrival", "decision"])
@pytest.mark.parametrize("order", [FCFS, aging, lambda: by_priority(True)], ids=["fcfs", "aging", "preemptive"])
@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "sarathi"])
@given(rows=rows_of_requests)
def test_victims(name: str, order: Callable[[], Told], victim: str, rows: Rows) -> None:
    compare(workload(rows), [replica(name, kv_blocks=9)], order(), victim=shortest(victim))


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1"])
@given(rows=rows_of_requests, delay=st.integers(1, 20), wakes=st.lists(st.integers(1, 60), max_size=20))
def test_woken(name: str, delay: int, wakes: list[int], rows: Rows) -> None:
    moments = tuple(wake * 0.0625 for wake in wakes)
    compare(workload(rows), [replica(name), replica(name, 2.0)], not_before(delay * 0.0625, moments))


@pytest.mark.parametrize("order", [aging, lambda: by_priority(True)], ids=["aging", "preemptive"])
@given(rows=rows_of_requests)
def test_asked_with_a_prefix_cache(order: Callable[[], Told], rows: Rows) -> None:
    compare(workload(rows), [replica("vllm_v1", prefix_caching=True, kv_blocks=9)], order())
