"""Numbers that mean nothing or cannot be carried out are one line, told by `rota check` before anything runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.study.scenario import parse
from rota.worlds.serving.numbers import CALLS_MOST, TOKENS_MOST, check_drawn
from rota.worlds.serving.policies import CLOCKS, MIGRATIONS, SCALERS

GROUP = {"model": "llama-3-8b", "gpu": "a100-80g"}
BASE: dict[str, Any] = {
    "world": "serving",
    "workload": {"generate": {"kind": "chat", "requests": 20, "rate": 2.0}},
    "fleet": [{**GROUP, "count": 2}],
    "policies": [{"name": "a"}],
}
INF = float("inf")


def reasoning(**changes: Any) -> dict[str, Any]:
    return {"workload": {"reasoning": [{"kind": "samples", "count": 30, "rate": 1.0, "width": 2, **changes}]}}


def programs(**changes: Any) -> dict[str, Any]:
    return {"workload": {"programs": {"kind": "chain", "count": 30, "rate": 1.0, **changes}}}


def check(changes: dict[str, Any]) -> None:
    """What `rota check` does."""
    made: Any = parse({**BASE, **changes}, Path())
    made.world.workload(made.case, 0)
    assert made.world.resolve(made.case, made.policies[0], Path()) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (reasoning(rounds=INF), r"workload.reasoning\[0\].rounds: expected 'float' <= 1000.0, found inf"),
        (reasoning(rounds_sigma=1000.0), "rounds_sigma: .*found 1000"),
        (reasoning(rounds_sigma=float("nan")), "rounds_sigma: .*found nan"),
        (reasoning(variation=1e-200), "variation: .*found 1e-200"),
        (reasoning(output=1e30), "output: .*found 1e"),
        (reasoning(rate=1e-320), "rate: "),
        (reasoning(rounds=1000, rounds_sigma=5), "samples: rounds 1000, rounds_sigma 5: .* was drawn, and 10,000 is"),
        (reasoning(prompt=1e6, prompt_sigma=4), "prompt 1e.06, prompt_sigma 4: .* was drawn, and 10,000,000 is"),
        (programs(prompt=INF), "programs.prompt: .*found inf"),
        (programs(calls=INF), "programs.calls: .*found inf"),
        (programs(prompt_sigma=1000.0), "prompt_sigma: .*found 1000"),
        (programs(delay=INF), "delay: .*found inf"),
        (programs(added=1e6, added_sigma=4), "added 1e.06, added_sigma 4: .* was drawn"),
        ({"workload": {**BASE["workload"], "arrivals": {"gamma": {"rate": 1.0, "cv": 1e-200}}}}, "cv: .*found 1e-200"),
        ({"workload": {"generate": {"kind": "chat", "requests": 20, "cv": 1e-200}}}, "generate.cv: .*found 1e-200"),
        ({"links": {"latency": INF}}, "links.latency: .*found inf"),
        ({"fleet": [{**GROUP, "prefix_caching": {"tiers": [{"blocks": 9, "latency": INF}]}}]}, "latency: .*found inf"),
        ({"information": {"output_tokens": {"noisy": {"sigma": INF}}}}, "noisy.sigma: .*found inf"),
        ({"information": {"output_tokens": {"predicted": {"error": INF}}}}, "predicted.error: .*found inf"),
        (
            {"policies": [{"name": "a", "scale": {"predictive": {"ahead": INF}}}]},
            "all but backlog finite; found 3, inf",
        ),
        ({"policies": [{"name": "a", "scale": {"predictive": {"season": INF}}}]}, "finite; .*season inf"),
        ({"failures": {"mean_between": 1e-9}}, "failures.mean_between: expected 'float' >= 1.0, found 1e-09"),
        ({"failures": {"mean_between": 100.0, "mean_repair": INF}}, "failures.mean_repair: .*found inf"),
    ],
)
def test_a_number_that_cannot_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as found:
        check(changes)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "changes",
    [
        reasoning(variation=1e-3),
        reasoning(variation=1e3),
        reasoning(rounds=1.0, rounds_sigma=1.0, output=4096),
        programs(delay=1e9, delay_sigma=5),
        {"workload": {**BASE["workload"], "arrivals": {"gamma": {"rate": 1.0, "cv": 1e-3}}}},
        {"links": {"latency": 1e9}},
        {"failures": {"mean_between": 1.0}},
        {"policies": [{"name": "a", "scale": {"predictive": {"backlog": INF}}}]},
    ],
)
def test_the_last_number_that_can(changes: dict[str, Any]) -> None:
    check(changes)


def test_a_draw_at_its_limit_is_good() -> None:
    check_drawn(np.array([1.0, TOKENS_MOST]), TOKENS_MOST, "x")
    check_drawn(np.zeros(0), CALLS_MOST, "x")
    with pytest.raises(InputError, match=r"^x: 1e\+04 was drawn, and 10,000 is the most"):
        check_drawn(np.array([CALLS_MOST + 1.0]), CALLS_MOST, "x")


ASKED = [
    (role, name)
    for role, room in (("scale", SCALERS), ("migrate", MIGRATIONS), ("power", CLOCKS))
    for name in sorted(room)
]


@pytest.mark.parametrize("every", [INF, float("nan"), 0.0, -1.0, -INF])
@pytest.mark.parametrize(("role", "name"), ASKED)
def test_who_is_asked_again_says_when(role: str, name: str, every: float) -> None:
    changes = {"power": {}, "policies": [{"name": "a", role: {name: {"every": every}}}]}
    with pytest.raises(InputError, match=rf"^policy a, {role}\b.*every\b.*{every:g}\b") as found:
        check(changes)
    assert "\n" not in str(found.value)


def test_so_does_a_policy_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom rota.worlds.serving.fleet import Scaler\n\n"
        "@dataclass\nclass Steady(Scaler):\n    every: float = 5.0\n\n    def wanted(self, hosts, now):\n        return 2.0\n"
    )
    for every, bad in ((5.0, False), (INF, True), (0.0, True)):
        made: Any = parse({**BASE, "policies": [{"name": "a", "scale": {"mine:Steady": {"every": every}}}]}, tmp_path)
        if not bad:
            assert made.world.resolve(made.case, made.policies[0], tmp_path) is None
            continue
        with pytest.raises(
            InputError,
            match=f"policy a, scale: every must be a finite number of seconds, 0.001 or more, found {every:g}",
        ):
            made.world.resolve(made.case, made.policies[0], tmp_path)
