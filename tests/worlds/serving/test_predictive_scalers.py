"""Autoscalers that look ahead or at the waits: forecasts with known answers, thresholds by hand, and a day on which they pay."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.kernel.tables import HOST_COLUMNS, Hosts
from rota.study.scenario import read
from rota.worlds.serving.columns import SERVING_HOST_COLUMNS
from rota.worlds.serving.policies.predictive import Predictive
from rota.worlds.serving.policies.slo_slack import SloSlack


def hosts(**columns: Any) -> Hosts:
    rows = max(np.size(column) for column in columns.values())
    values = {name: np.broadcast_to(np.asarray(column, np.float64), rows) for name, column in columns.items()}
    return Hosts(values, {**HOST_COLUMNS, **SERVING_HOST_COLUMNS}.values(), rows=rows)


def fed(policy: Predictive, rates: list[float]) -> list[float]:
    """What it wants after each interval with so many arrivals a second."""
    found, job = [], 0
    for step, rate in enumerate(rates):
        for _ in range(round(rate * policy.every)):
            policy.on_arrival(job, step * policy.every)
            job += 1
        found.append(policy.wanted(hosts(outstanding=[0.0]), (step + 1) * policy.every))
    return found


def test_the_weighted_mean_by_hand() -> None:
    """Weight 0.5: 4, then 0.5 x 8 + 0.5 x 4 = 6, then 3 + 0 = 3; two a second are one replica."""
    assert fed(Predictive(rate=2.0, method="ewma", level=0.5), [4.0, 8.0, 0.0]) == [2.0, 3.0, 1.5]


def test_holt_by_hand() -> None:
    """Weights 0.5: level 0, 0.5 x 4 = 2, 0.5 x 8 + 0.5 x (2 + 1) = 5.5; trend 0, 1, 0.5 x 3.5 + 0.5 x 1 = 2.25; one interval ahead."""
    policy = Predictive(rate=1.0, ahead=15.0, method="holt", level=0.5, trend=0.5)
    assert fed(policy, [0.0, 4.0, 8.0]) == [0.0, 3.0, 7.75]


def test_a_line_goes_on() -> None:
    """A load that grows by 0.2 a second in each interval: after long enough the forecast for four intervals later is on the line."""
    policy = Predictive(rate=1.0, ahead=60.0, method="holt", level=0.5, trend=0.5)
    assert fed(policy, [0.2 * step for step in range(200)])[-1] == pytest.approx(0.2 * 203, rel=0.01)


@pytest.mark.parametrize("weight", [0.1, 0.3])
def test_a_season_comes_again(weight: float) -> None:
    """A periodic load is forecast exactly from the second season on, one interval or seven ahead."""
    season = [2.0, 2.0, 4.0, 8.0, 12.0, 8.0, 4.0, 4.0]
    for ahead in (1, 7):
        policy = Predictive(
            rate=1.0, ahead=15.0 * ahead, method="seasonal", season=120.0, level=weight, seasonal=weight
        )
        found = fed(policy, season * 6)
        expected = [season[(step + ahead) % 8] for step in range(48)]
        assert found[16:] == pytest.approx(expected[16:])


def test_what_waits_counts_where_asked() -> None:
    policy = Predictive(rate=1.0, backlog=10.0)
    assert policy.wanted(hosts(outstanding=[25.0, 25.0]), 15.0) == 5.0


def slack_hosts(up: list[float], outstanding: float) -> Hosts:
    return hosts(up=up, running=[0.0] * len(up), outstanding=[outstanding] * len(up), max_running=[64.0] * len(up))


def test_slack_up_and_down() -> None:
    """Waits of 0.4 s against 0.5 s change nothing; of 0.9 s make of two replicas four; none for three minutes let one go."""
    policy = SloSlack(limit=0.5, down_seconds=180.0)
    four = [1.0, 1.0, 0.0, 0.0]

    def waits(seconds: float, now: float, first: int) -> None:
        for job in range(first, first + 20):
            policy.on_arrival(job, now - seconds)
            policy.on_start(job, 0, now)

    waits(0.4, 5.0, 0)
    assert policy.wanted(slack_hosts(four, 5.0), 10.0) == 2
    waits(0.9, 65.0, 100)
    assert policy.wanted(slack_hosts(four, 5.0), 70.0) == 4
    assert policy.wanted(slack_hosts(four, 5.0), 140.0) == 4  # two are starting: they are not taken back
    up = [1.0] * 4
    assert policy.wanted(slack_hosts(up, 5.0), 310.0) == 4
    assert policy.wanted(slack_hosts(up, 5.0), 330.0) == 3
    assert policy.wanted(slack_hosts([1.0, 1.0, 1.0, 0.0], 60.0), 900.0) == 3  # those that stay would be too full


def test_requests_that_still_wait_count() -> None:
    policy = SloSlack(limit=0.5)
    policy.on_arrival(0, 0.0)
    assert policy.wanted(slack_hosts([1.0, 0.0], 5.0), 10.0) == 2


@pytest.mark.parametrize(("made", "message"), [
    (lambda: Predictive(rate=0.0), "predictive: needs rate > 0"),
    (lambda: Predictive(level=0.0), "weights above 0 and at most 1"),
    (lambda: Predictive(method="seasonal", season=20.0), "at least two intervals of 15 s, found 20 s"),
    (lambda: SloSlack(limit=0.0), "slo_slack: needs limit > 0"),
    (lambda: SloSlack(growth=1.0), "growth > 1"),
])  # fmt: skip
def test_what_cannot_be(made: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        made()


@pytest.mark.parametrize("scaler", ["{predictive: {rate: 4.5, ahead: 75}}", "{slo_slack: {limit: 0.5}}"])
def test_a_day_in_fifteen_minutes(scaler: str, repository: Path) -> None:
    """The fleet follows a load that swings: all requests are served, by fewer replica hours than all six on, and more than the least would be."""
    scenario = read(repository / "examples/serving/autoscaling.yaml", [
        "workload.generate.requests=8000",
        "workload.generate.day_seconds=900",
        f"policies=[{{name: all}}, {{name: scaled, scale: {scaler}}}]",
    ])  # fmt: skip
    work = scenario.world.workload(scenario.case, 0)
    fixed, scaled = (scenario.world.run(scenario.case, work, policy, 0).metrics for policy in scenario.policies)
    assert scaled["unfinished"] == 0
    assert 1.0 < scaled["replicas_mean"] < 0.9 * fixed["replicas_mean"]
    if "predictive" in scaler:
        assert scaled["replicas_mean"] == pytest.approx(len(work) / scaled["makespan"] / 4.5 + 0.5, rel=0.2)
