"""The shapes of decision: hooks, roles, and the checks that every world makes of an answer."""

from typing import Any

import numpy as np
import pytest

from rota.kernel.decisions import HOOKS, Every, Order, Place, Policy, System, checked, hooks
from rota.kernel.errors import PolicyError
from rota.kernel.tables import Hosts, IntColumn, Jobs


class Told(Order):
    def on_finish(self, job: int, host: int, now: float) -> None: ...

    def on_arrival(self, job: int, now: float) -> None: ...


def test_a_world_calls_only_the_hooks_that_a_policy_has() -> None:
    assert hooks(Told()) == ("on_arrival", "on_finish")
    assert hooks(Order()) == ()
    assert len(HOOKS) == 9


def test_a_system_names_its_roles_in_one_order() -> None:
    order, place = Order(), Place()
    system = System({"migrate": Every(30.0, order, place), "route": place})
    assert list(system.policies()) == [("route", place), ("migrate.who", order), ("migrate.where", place)]
    assert system.get("order") is None
    with pytest.raises(PolicyError, match="a system has no role 'rout'"):
        System({"rout": place})


@pytest.mark.parametrize("answer", [[1, 2, 3], np.array([[1.0, np.inf]] * 3)])
def test_answers_become_floats(answer: Any) -> None:
    found = checked(answer, (3,), Order(), "keys", 0.0)
    assert found.dtype == np.float64
    assert len(found) == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0], r"Order: keys at 2 s has shape \(1,\), expected \(3,\)"),
        (np.zeros((3, 1, 1)), "has shape"),
        ([1.0, np.nan, 0.0], "keys at 2 s contains NaN"),
    ],
)
def test_answers_that_are_none(answer: Any, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        checked(answer, (3,), Order(), "keys", 2.0)


def test_defaults_that_a_policy_inherits() -> None:
    policy = Policy()
    assert policy.supports("serving") is None
    assert policy.reads == ()
    assert Order().review(None, 5.0) == float("inf")  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="Order defines no keys"):
        Order().keys(None, 0.0)  # type: ignore[arg-type]


class Nearest(Place):
    reads = ("id", "outstanding")
    cost_column = "outstanding"

    def sample(self, jobs: Jobs, hosts: Hosts) -> IntColumn:
        return np.stack([jobs.id % 3, (jobs.id + 1) % 3], axis=1)


def test_costs_follow_from_a_column_and_candidates() -> None:
    hosts = Hosts({"id": np.array([2, 1, 0]), "outstanding": np.array([7, 8, 9])})
    many = Nearest().costs(Jobs({"id": np.array([0, 4])}), hosts, 0.0)
    assert many.tolist() == [[np.inf, 8, 9], [7, 8, np.inf]]
    assert Nearest().costs(Jobs({"id": np.array([4])}), hosts, 0.0).tolist() == [7, 8, np.inf]
    assert Place().costs(Jobs({}, rows=1), hosts, 0.0).tolist() == [0, 0, 0]
