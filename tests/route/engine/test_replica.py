"""Clients that leave at any moment: nothing of them stays, and the others get all their tokens."""

from array import array
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.route.engine.replica import Replica
from rota.route.engine.sequence import Sequence
from tests.route.engine.test_twin import EVERY_BATCHER, rules_of, timing

requests = st.lists(
    # arrival and leaving (None: stays) in 1/16 s, prompt, output
    st.tuples(st.integers(0, 20), st.none() | st.integers(0, 30), st.integers(1, 12), st.integers(1, 12)),
    min_size=1,
    max_size=14,
)


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("name", EVERY_BATCHER)
@given(rows=requests)
def test_aborts(name: str, caching: bool, rows: list[tuple[int, int | None, int, int]]) -> None:
    replica = Replica(rules_of(name), timing(), kv_blocks=12, block_tokens=4, max_running=4, prefix_caching=caching)
    seqs = [
        Sequence(number, prompt, output, array("I", [1] * prompt + [100 + number] * output))
        for number, (_, _, prompt, output) in enumerate(rows)
    ]
    events = [(arrival / 16, 0, number) for number, (arrival, *_) in enumerate(rows)]
    events += [((row[0] + row[1]) / 16, 1, number) for number, row in enumerate(rows) if row[1] is not None]
    events.sort()
    gone = set[int]()

    def pass_time(until: float) -> None:
        while True:
            if replica.busy:
                if replica.ends > until:
                    return
                assert not {seq.number for seq in replica.complete()} & gone
            elif replica.next_begin() <= until and replica.next_begin() < inf:
                replica.begin(replica.next_begin())
            else:
                return
            held = sum(seq.held for seq in (*replica.running, *replica.lagging))
            assert replica.blocks.free >= replica.blocks.total - held  # shared blocks are held by several
            assert caching or replica.blocks.free == replica.blocks.total - held
            assert len(replica.running) <= 4

    for when, leaves, number in events:
        pass_time(when)
        if leaves:
            if not seqs[number].finished:
                gone.add(number)
            replica.abort(seqs[number])
        else:
            replica.submit(seqs[number], when)
    pass_time(1e9)
    assert not replica.running
    assert not replica.waiting
    assert replica.blocks.free == 12
    for number, seq in enumerate(seqs):
        assert seq.finished or number in gone
        assert len(seq.token_times) == seq.generated
