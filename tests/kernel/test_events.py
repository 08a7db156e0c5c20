"""The event queue keeps (time, priority, sequence), whatever the events carry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.events import ARRIVAL, COMPLETION, DECISION, EventQueue

PUSHES = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 1.5, float("inf")]), st.sampled_from([0, 5, 10, 20])))


def test_at_equal_time_completions_come_before_arrivals_before_decisions() -> None:
    queue = EventQueue[str]()
    for priority, item in ((DECISION, "decide"), (ARRIVAL, "second"), (COMPLETION, "done"), (ARRIVAL, "third")):
        queue.push(2.0, priority, item)
    queue.push(1.0, DECISION, "first of all")
    assert [queue.pop().item for _ in range(5)] == ["first of all", "done", "second", "third", "decide"]
    assert queue.now == 2.0
    assert not queue
    assert queue.next_time() == float("inf")


@given(PUSHES)
def test_order_is_a_stable_sort_by_time_and_priority(pushes: list[tuple[float, int]]) -> None:
    queue = EventQueue[object]()
    for number, (time, priority) in enumerate(pushes):
        assert queue.push(time, priority, object()) == number  # items that cannot be compared
    popped = [queue.pop() for _ in pushes]
    assert [event.sequence for event in popped] == sorted(range(len(pushes)), key=lambda number: pushes[number])
    assert all(event[:2] == pushes[event.sequence] for event in popped)


@given(PUSHES, st.integers(0, 10))
def test_pops_between_pushes_never_run_backwards(pushes: list[tuple[float, int]], every: int) -> None:
    queue, seen = EventQueue[None](), []
    for number, (delay, priority) in enumerate(pushes):
        queue.push(max(queue.now, 0.0) + delay, priority, None)
        if every and number % every == 0:
            seen.append(queue.pop().time)
    while queue:
        assert queue.next_time() >= queue.now
        seen.append(queue.pop().time)
    assert seen == sorted(seen)
    assert len(seen) == len(pushes)


@pytest.mark.parametrize("time", [0.5, float("nan"), float("-inf")])
def test_nothing_is_added_to_the_past(time: float) -> None:
    queue = EventQueue[None]()
    queue.push(1.0, ARRIVAL, None)
    queue.pop()
    with pytest.raises(ValueError, match="time does not run backwards"):
        queue.push(time, ARRIVAL, None)


def test_an_empty_queue_has_no_next_event() -> None:
    with pytest.raises(IndexError):
        EventQueue[None]().pop()
