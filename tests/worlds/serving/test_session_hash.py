"""Sessions stay, move only when they must, and nobody gets more than the bound. (The conformance suite runs in test_routes.py.)"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.kernel.tables import Hosts, Jobs
from rota.study.scenario import parse
from rota.worlds.serving.policies.session_hash import SessionHash, ranks


def chosen(session: int, ids: list[int], load: list[int], policy: SessionHash | None = None) -> int:
    hosts = Hosts({"id": np.array(ids), "outstanding": np.array(load)})
    costs = (policy or SessionHash()).costs(Jobs({"session": np.array([session])}), hosts, 0.0)
    return ids[int(np.argmin(costs))]


def test_the_finaliser_is_splitmixs() -> None:
    """The first two outputs of SplitMix64 with seed 1234567, published with the reference implementation."""
    first, second = ranks(1234567, np.array([1, 2]))
    assert first == (6457827717110365317 >> 11) * 2.0**-53
    assert second == (3203168211198807973 >> 11) * 2.0**-53


def test_a_host_that_goes_moves_its_own_sessions_only() -> None:
    before = {session: chosen(session, [0, 1, 2, 3], [0] * 4) for session in range(2000)}
    after = {session: chosen(session, [0, 1, 3], [0] * 3) for session in range(2000)}
    assert {session for session in before if before[session] != after[session]} == {
        session for session, host in before.items() if host == 2
    }
    counts = np.bincount(list(before.values()), minlength=4)
    assert abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


@given(st.integers(0, 2**52), st.lists(st.integers(0, 50), min_size=1, max_size=8), st.floats(1.01, 3.0))
def test_nobody_gets_more_than_the_bound(session: int, load: list[int], bound: float) -> None:
    host = chosen(session, list(range(len(load))), load, SessionHash(bound))
    assert load[host] + 1 <= np.ceil(bound * (sum(load) + 1) / len(load))


def test_a_full_favourite_sends_to_the_next_in_rank() -> None:
    order = sorted(range(4), key=lambda host: ranks(7, np.array([host]))[0])
    load = [0] * 4
    load[order[0]] = 20
    assert chosen(7, [0, 1, 2, 3], load) == order[1]
    assert chosen(-1, [0, 1, 2, 3], [3, 1, 0, 2]) == 2  # no session: the least outstanding


def test_a_bound_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="bound must be a number above 1, found 1"):
        SessionHash(1.0)


def test_it_keeps_conversations_together_in_the_world() -> None:
    made = parse(
        {
            "world": "serving",
            "workload": {
                "generate": {
                    "kind": "chat",
                    "requests": 400,
                    "rate": 2.0,
                    "sessions": {"turns": 4.0, "gap_seconds": 5.0},
                }
            },
            "fleet": [{"model": "llama-3.1-8b", "gpu": "h100", "count": 4}],
            "policies": [{"name": "s", "route": {"session_hash": {"bound": 100.0}}}],
        },
        Path(),
    )
    work = made.world.workload(made.case, 0)
    assert work.session.max() >= 0
    seen: dict[int, set[int]] = {}
    result = made.world.run(made.case, work, made.policies[0], 0).outcomes
    for session, host in zip(work.session[result["job"]], result["replica"], strict=True):
        if session >= 0:
            seen.setdefault(int(session), set()).add(int(host))
    assert all(len(hosts) == 1 for hosts in seen.values())
    assert len(set.union(*seen.values())) == 4
