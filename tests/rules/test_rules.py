"""The shared rules: hand-computed answers, and one fact of theory for each family."""

from typing import ClassVar

import numpy as np
import pytest

from rota.kernel.decisions import Order, Place, ranked
from rota.kernel.errors import InputError
from rota.kernel.streams import generator
from rota.kernel.tables import AnyColumn, Claims, Column, FloatColumn, Hosts, Jobs
from rota.rules import ALLOTS, ORDERS, PLACES
from rota.rules.arrival import FirstCome
from rota.rules.balance import LeastWork
from rota.rules.budget import WeightedSharing
from rota.rules.fair import LeastServedTenant
from rota.rules.sampling import PowerOfTwo, RandomPlace
from rota.rules.size import ShortestRemaining
from rota.testing.conformance import ConformanceSuite, Subject

TOKENS = {"outstanding_tokens": Column("outstanding_tokens", "tokens", "tokens to be processed at the host")}


class TestRules(ConformanceSuite):
    """Every shared rule keeps every rule of conformance, alone and with other parameters."""

    subjects: ClassVar = {
        **{f"order-{name}": Subject(rule, "order") for name, rule in ORDERS.items()},
        **{f"place-{name}": Subject(rule, "place", many=True) for name, rule in PLACES.items()},
        **{
            f"allot-{name}": Subject(rule, "allot") for name, rule in ALLOTS.items() if name != "discriminatory_sharing"
        },
        "power_of_one": Subject(lambda: PowerOfTwo(d=1), "place", many=True),
        "power_of_all": Subject(lambda: PowerOfTwo(d=99), "place", many=True),
        "least_tokens": Subject(lambda: LeastWork(by="outstanding_tokens"), "place", host_columns=TOKENS),
    }


def test_the_rooms_hold_what_they_say() -> None:
    assert list(ORDERS) == [
        *("fcfs", "lcfs", "sjf", "srpt", "psjf", "las", "priority", "edf", "least_slack", "fair", "random")
    ]
    assert list(PLACES) == ["random", "round_robin", "least_outstanding", "least_queued", "power_of_two", "least_work"]
    assert list(ALLOTS) == ["processor_sharing", "weighted_sharing", "discriminatory_sharing"]
    assert all(issubclass(rule, Order) for rule in ORDERS.values())
    assert all(issubclass(rule, Place) for rule in PLACES.values())


JOBS = {
    "id": np.array([0, 1, 2, 3]),
    "release": np.array([0.0, 1.0, 2.0, 3.0]),
    "size": np.array([9.0, 2.0, 5.0, 1.0]),
    "remaining": np.array([1.0, 2.0, 5.0, 0.5]),
    "attained": np.array([8.0, 0.0, 0.0, 0.5]),
    "priority": np.array([2, 0, 1, 0]),
    "due": np.array([np.inf, 20.0, 12.0, np.inf]),
}


@pytest.mark.parametrize("name", ["srpt", "las"])
def test_a_rank_says_what_the_keys_say(name: str) -> None:
    rule = ORDERS[name]()
    table = {**JOBS, "size": JOBS["remaining"] + JOBS["attained"]}
    jobs = Jobs({column: table[column] for column in {*rule.reads, "attained"}})
    rank = rule.rank(jobs)
    assert rank is not None
    np.testing.assert_array_equal(rank.at(jobs.attained)[:, 1], rule.keys(jobs, 0.0))


def test_a_subclass_with_keys_of_its_own_is_not_spoken_for_by_an_inherited_rank() -> None:
    class Reversed(ShortestRemaining):
        def keys(self, jobs: Jobs, now: float) -> FloatColumn:
            return -jobs.remaining

    assert ranked(ShortestRemaining())
    assert not ranked(Reversed())
    assert not ranked(FirstCome())


@pytest.mark.parametrize(("amounts", "weights"), [([0.25] * 4, [1, 1, 1, 1]), ([0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4])])
def test_proportional_shares_of_one_server(amounts: list[float], weights: list[int]) -> None:
    rule = WeightedSharing()
    claims = Claims({"weight": np.array(weights, np.float64)})
    np.testing.assert_allclose(rule.amounts(claims, {"servers": 1.0}, 0.0), amounts)


def test_nobody_gets_more_than_one_server_and_the_rest_is_shared() -> None:
    claims = Claims({"weight": np.array([8.0, 1.0, 1.0])})
    np.testing.assert_allclose(WeightedSharing().amounts(claims, {"servers": 2.0}, 0.0), [1.0, 0.5, 0.5])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fcfs", [0, 1, 2, 3]),
        ("lcfs", [3, 2, 1, 0]),
        ("sjf", [3, 1, 2, 0]),
        ("srpt", [3, 0, 1, 2]),
        ("las", [1, 2, 3, 0]),
        ("priority", [1, 3, 2, 0]),
        ("edf", [2, 1, 0, 3]),
        ("least_slack", [2, 1, 0, 3]),  # due less remaining: 7, 18, and two without a due date
    ],
)
def test_orders_by_hand(name: str, expected: list[int]) -> None:
    rule = ORDERS[name]()
    keys = rule.keys(Jobs({column: JOBS[column] for column in rule.reads}), 4.0)
    assert np.lexsort((JOBS["id"], JOBS["release"], keys)).tolist() == expected
    assert np.isfinite(keys).all()  # every job gets its turn, also without a due date


def test_only_rules_that_follow_service_displace_and_share() -> None:
    assert {name for name, rule in ORDERS.items() if rule.preemptive} == {"srpt", "psjf", "las"}
    assert {name for name, rule in ORDERS.items() if rule.ties == "share"} == {"las"}
    assert {name for name, rule in ORDERS.items() if rule.asked != "arrival"} == {"srpt", "las", "least_slack", "fair"}


def simulate_one_server(rule: Order, release: AnyColumn, size: AnyColumn) -> float:
    """Mean response time on one server that asks whenever a job arrives or ends, the obvious way."""
    rule.bind(generator(0, "policy"))
    ids, remaining, finish, now = np.arange(len(size)), size.copy(), np.full(len(size), np.nan), 0.0
    running = -1
    while np.isnan(finish).any():
        here = ids[(release <= now) & np.isnan(finish)]
        coming = release[release > now].min(initial=np.inf)
        if not len(here):
            now = coming
            continue
        if running < 0 or rule.preemptive:
            values = {"id": ids, "release": release, "size": size, "remaining": remaining, "attained": size - remaining}
            keys = rule.keys(Jobs({name: values[name][here] for name in rule.reads}), now)
            running = int(here[np.lexsort((here, release[here], keys))[0]])
        step = min(remaining[running], coming - now)
        now += step
        remaining[running] -= step
        if remaining[running] <= 1e-12:
            finish[running], running = now, -1
    return float((finish - release).mean())


def test_srpt_is_the_best_of_all_and_sjf_of_those_that_do_not_displace() -> None:
    """Schrage 1968: SRPT is optimal on every sample path; SJF beats FCFS here."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        release, size = np.cumsum(rng.exponential(1.0, 60)), rng.exponential(0.8, 60)
        means = {
            name: simulate_one_server(ORDERS[name](), release, size)
            for name in ("fcfs", "lcfs", "sjf", "srpt", "random")
        }
        assert min(means.values()) == means["srpt"]
        assert means["sjf"] < means["fcfs"]


def test_random_order_is_a_lot_keyed_by_the_job() -> None:
    rule = ORDERS["random"]()
    rule.bind(generator(1, "policy"))
    together = rule.keys(Jobs({"id": np.arange(5)}), 0.0)
    alone = [rule.keys(Jobs({"id": np.array([job])}), 9.0)[0] for job in (4, 3, 2, 1, 0)]
    assert together.tolist() == alone[::-1]
    other = ORDERS["random"]()
    other.bind(generator(2, "policy"))
    assert together.tolist() != other.keys(Jobs({"id": np.arange(5)}), 0.0).tolist()


def table(ids: list[int], tenants: list[int]) -> Jobs:
    return Jobs({"id": np.array(ids), "tenant": np.array(tenants)})


def test_fair_goes_by_what_tenants_were_given_over_their_weights() -> None:
    """Tenant 0 had 6 s, tenant 1 of weight 3 had 9: 6 against 3. Tenant 2 comes now and is lifted to the least of those who wait."""
    rule = LeastServedTenant(weights_of={1: 3.0})
    both = table([0, 1, 2, 3], [0, 1, 0, 1])
    assert rule.keys(both, 0.0).tolist() == [0.0] * 4
    rule.on_start(0, 0, 0.0)
    rule.on_start(1, 0, 0.0)
    rule.on_progress(np.array([0, 1]), np.array([6.0, 9.0]), 9.0)
    assert rule.keys(table([2, 3], [0, 1]), 9.0).tolist() == [6.0, 3.0]
    later = table([2, 3, 4], [0, 1, 2])
    assert rule.keys(later, 9.0).tolist() == rule.keys(later, 9.0).tolist() == [6.0, 3.0, 3.0]
    rule.on_start(3, 0, 9.0)
    rule.on_progress(np.array([3]), np.array([30.0]), 20.0)
    assert rule.keys(table([2, 4, 5], [0, 2, 1]), 20.0).tolist() == [6.0, 3.0, 13.0]


def test_fair_lifts_to_the_last_in_line_when_nobody_waits() -> None:
    rule = LeastServedTenant()
    rule.keys(table([0], [0]), 0.0)
    rule.on_start(0, 0, 0.0)
    rule.on_progress(np.array([0]), np.array([8.0]), 8.0)
    assert rule.keys(table([1, 2], [1, 0]), 8.0).tolist() == [8.0, 8.0]


def test_fair_takes_a_displaced_job_back_into_the_line() -> None:
    """Its tenant was in line all the time: it is not lifted as if it had been away."""
    rule = LeastServedTenant()
    rule.keys(table([0, 1], [0, 1]), 0.0)
    rule.on_start(0, 0, 0.0)
    rule.on_start(1, 0, 0.0)
    rule.on_progress(np.array([1]), np.array([5.0]), 5.0)
    rule.on_preempt(0, 0, 5.0)
    assert rule.keys(table([0, 2], [0, 1]), 5.0).tolist() == [0.0, 5.0]
    rule.on_leave(0, "rejected", 6.0)
    rule.on_leave(99, "rejected", 6.0)  # who was never shown
    assert rule.keys(table([2], [1]), 6.0).tolist() == [5.0]


def test_fair_needs_positive_weights() -> None:
    with pytest.raises(InputError, match="weights must be positive"):
        LeastServedTenant(weights_of={0: -1.0})


HOSTS = {
    "id": np.array([0, 1, 2]),
    "decisions": np.array([5, 4, 4]),
    "queued": np.array([0, 0, 2]),
    "outstanding": np.array([3, 1, 2]),
    "work": np.array([0.5, 9.0, 2.0]),
}


@pytest.mark.parametrize(
    ("name", "expected"), [("round_robin", 1), ("least_outstanding", 1), ("least_queued", 1), ("least_work", 0)]
)
def test_places_by_hand(name: str, expected: int) -> None:
    rule = PLACES[name]()
    costs = rule.costs(Jobs({}, rows=1), Hosts({column: HOSTS[column] for column in rule.reads}), 0.0)
    assert np.lexsort((HOSTS["id"], HOSTS["decisions"], costs))[0] == expected  # the world's ties
    assert costs.tolist() == HOSTS[rule.reads[0]].tolist()


def test_round_robin_takes_turns() -> None:
    decisions, chosen = np.zeros(3, dtype=np.int64), []
    for _ in range(7):
        costs = PLACES["round_robin"]().costs(Jobs({}, rows=1), Hosts({"decisions": decisions}), 0.0)
        chosen.append(int(np.argmin(costs)))
        decisions[chosen[-1]] += 1
    assert chosen == [0, 1, 2, 0, 1, 2, 0]


def test_least_work_reads_what_it_is_told() -> None:
    assert LeastWork().reads == ("work",)
    assert LeastWork(by="outstanding_tokens").cost_column == "outstanding_tokens"
    assert LeastWork(by="outstanding_tokens").reads == ("outstanding_tokens",)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_power_of_two_looks_at_d_hosts_each_equally_often(d: int) -> None:
    rule, rows = PowerOfTwo(d=d), 4000
    rule.bind(generator(0, "policy"))
    jobs = Jobs({"id": np.arange(rows)})
    costs = rule.costs(jobs, Hosts({"id": np.arange(8), "outstanding": np.arange(8)}), 0.0)
    seen = np.isfinite(costs)
    assert (seen.sum(axis=1) == d).all()
    assert (np.argmin(costs, axis=1) == np.argmax(seen, axis=1)).all()
    share = d / 8
    assert np.abs(seen.mean(axis=0) - share).max() < 4 * np.sqrt(share * (1 - share) / rows)
    alone = rule.costs(Jobs({"id": np.array([7])}), Hosts({"id": np.arange(8), "outstanding": np.arange(8)}), 5.0)
    assert alone.tolist() == costs[7].tolist()


def test_two_choices_beat_one() -> None:
    """Azar et al. 1999: of n balls in n bins the fullest holds O(log log n) with two, log n / log log n with one."""
    fullest = {}
    for d in (1, 2):
        rule, load = PowerOfTwo(d=d), np.zeros(500, dtype=np.int64)
        rule.bind(generator(3, "policy"))
        for job in range(500):
            costs = rule.costs(Jobs({"id": np.array([job])}), Hosts({"id": np.arange(500), "outstanding": load}), 0.0)
            load[np.argmin(costs)] += 1
        fullest[d] = load.max()
    assert fullest[2] <= 4 <= fullest[1]


def test_random_place_is_uniform() -> None:
    rule, rows = RandomPlace(), 6000
    rule.bind(generator(0, "policy"))
    jobs, hosts = Jobs({"id": np.arange(rows)}), Hosts({"id": np.arange(3)})
    chosen = rule.sample(jobs, hosts)[:, 0]
    assert (np.argmin(rule.costs(jobs, hosts, 0.0), axis=1) == chosen).all()
    share = np.bincount(chosen, minlength=3) / rows
    assert np.abs(share - 1 / 3).max() < 4 * np.sqrt(2 / 9 / rows)


@pytest.mark.parametrize("d", [0, -3])
def test_power_of_no_choice_is_refused(d: int) -> None:
    with pytest.raises(InputError, match="d must be at least 1 host, found"):
        PowerOfTwo(d=d)
