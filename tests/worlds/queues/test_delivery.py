"""Preferred delivery times: the exact policy against brute force and against play, and what aggregation costs."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.worlds.queues.delivery import DeliveryQueue, Plan, _states, earliest_first, play, solve

TWO = DeliveryQueue(
    arrivals=((0.1, 0.2, 0.1), (0.15, 0.2, 0.05)),
    early=(1.0, 0.5), late=(4.0, 1.5), reject=(6.0, 3.0), outsource=(9.0, 4.0),
    latest=1, room=3,
)  # fmt: skip


def uniform(seed: int) -> Any:
    return np.random.default_rng(seed).random


def exact_cost(queue: DeliveryQueue, plan: Plan) -> float:
    """Average cost of a plan from the stationary law of its Markov chain, state by state: no code of `solve`."""
    states = _states(queue)
    number = {waiting: index for index, waiting in enumerate(states)}
    chain, price = np.zeros((len(states), len(states))), np.zeros(len(states))
    nothing = 1.0 - sum(queue.coming.values())
    for waiting in states:
        for customer, chance in (*queue.coming.items(), (None, nothing)):
            row, now = number[waiting], waiting
            if customer is not None:
                if plan.admit(waiting, customer):
                    now = tuple(sorted((*waiting, customer)))
                else:
                    price[row] += chance * queue.reject[customer[0]]
            served, outsourced = plan.act(now)
            left = list(now)
            for each in served + outsourced:
                left.remove(each)
            price[row] += chance * sum(
                abs(lead) * (queue.early if lead > 0 else queue.late)[kind] for kind, lead in served
            )
            price[row] += chance * sum(queue.outsource[kind] for kind, _ in outsourced)
            price[row] += chance * sum(queue.outsource[kind] for kind, lead in left if lead == -queue.latest)
            then = tuple(sorted((kind, lead - 1) for kind, lead in left if lead > -queue.latest))
            chain[row, number[then]] += chance
    system = np.vstack([chain.T - np.eye(len(states)), np.ones(len(states))])
    law = np.linalg.lstsq(system, np.append(np.zeros(len(states)), 1.0), rcond=None)[0]
    return float(law @ price)


def test_the_cost_is_that_of_the_chain() -> None:
    plan = solve(TWO)
    assert plan.cost == pytest.approx(exact_cost(TWO, plan), abs=1e-5)
    assert plan.cost < exact_cost(TWO, earliest_first(TWO))


def test_no_policy_of_all_is_cheaper() -> None:
    """One class, one lead, room for two: every stationary policy there is."""
    queue = DeliveryQueue(((0.0, 0.7),), (0.4,), (1.0,), (1.3,), (1.7,), latest=1, room=2)
    best = solve(queue)
    states = _states(queue)
    menus = [list(queue.actions(waiting)) for waiting in states]
    asked = [(waiting, customer) for waiting in states for customer in queue.coming if len(waiting) < queue.room]
    reached = [index for index, waiting in enumerate(states) if all(lead >= 0 for _, lead in waiting)]
    cheapest = np.inf
    for answers in product([False, True], repeat=len(asked)):
        admits = {**{(w, c): False for w in states for c in queue.coming}, **dict(zip(asked, answers, strict=True))}
        for picks in product(*(range(len(menus[index])) for index in reached)):
            acts = {waiting: best.acts[waiting] for waiting in states}
            acts.update({states[index]: menus[index][pick] for index, pick in zip(reached, picks, strict=True)})
            cheapest = min(cheapest, exact_cost(queue, Plan(queue, 0.0, admits, acts)))
    assert best.cost == pytest.approx(cheapest, abs=1e-5)


def test_play_costs_what_was_solved() -> None:
    plan = solve(TWO)
    costs = play(TWO, plan, 40_000, uniform(1))
    batches = costs.reshape(40, -1).mean(axis=1)
    assert abs(costs.mean() - plan.cost) < 4 * batches.std(ddof=1) / np.sqrt(40)


def test_aggregation_of_one_period_changes_nothing() -> None:
    assert solve(TWO.aggregated(1)).acts == solve(TWO).acts


def test_an_aggregated_policy_is_no_better_and_not_far() -> None:
    queue = DeliveryQueue(
        ((0.08, 0.08, 0.08, 0.08), (0.1, 0.1, 0.1, 0.1)), (0.5, 0.2), (3.0, 1.0), (5.0, 2.0), (8.0, 3.0), latest=1, room=3
    )  # fmt: skip
    best = solve(queue)
    coarse = exact_cost(queue, solve(queue.aggregated(2)))
    assert best.cost <= coarse + 1e-6 < 1.5 * best.cost
    assert len(_states(queue.aggregated(2))) < len(_states(queue)) / 2


def test_waiting_for_the_preferred_time_pays() -> None:
    """A server with time to spare serves nobody early, and turns nobody away."""
    queue = DeliveryQueue(((0.0, 0.0, 0.05),), (1.0,), (1.0,), (50.0,), (50.0,), latest=1, room=3)
    plan = solve(queue)
    assert plan.acts[((0, 2),)] == ((), ())
    assert plan.acts[((0, 0),)] == (((0, 0),), ())
    assert all(plan.admit((), customer) for customer in queue.coming)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arrivals": ((0.7, 0.7),)}, "arrivals: must be probabilities with a sum of at most 1, found 1.4"),
        ({"early": (1.0, 2.0)}, "early: must be a cost of at least 0 for each of 1 classes"),
        ({"late": (-1.0,)}, "late: must be a cost of at least 0"),
        ({"capacity": 0}, "capacity: must be at least 1, found 0"),
        ({"room": 60, "latest": 40}, "states, at most 200,000 are solved; aggregate periods or lower the room"),
    ],
)
def test_impossible_queues(change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {
        "arrivals": ((0.3, 0.3),),
        "early": (1.0,),
        "late": (1.0,),
        "reject": (1.0,),
        "outsource": (1.0,),
    }
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        DeliveryQueue(**{**given, **change})
