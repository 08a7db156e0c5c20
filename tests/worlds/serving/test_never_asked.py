"""A role that a policy names and nobody would ask is told beforehand; defaults never stand in the way."""

from pathlib import Path
from typing import Any

import pytest

from rota.study.scenario import parse, read

GROUP = {"model": "llama-3-8b", "gpu": "a100-80g"}
TOGETHER = [{**GROUP, "count": 4}]
APART = [{**GROUP, "count": 2, "role": "prefill"}, {**GROUP, "count": 2, "role": "decode"}]
FAILING = {"failures": {"mean_between": 600}}
FOLDER = Path(__file__).parents[3] / "examples/serving"
EXAMPLES = sorted(file for file in FOLDER.glob("*.yaml") if not file.stem.startswith("parity-"))  # those need downloads


def why(fleet: list[dict[str, Any]], policy: dict[str, Any], **changes: Any) -> str | None:
    document = {
        "world": "serving",
        "workload": {"generate": {"kind": "chat", "requests": 20, "rate": 5.0}},
        "fleet": fleet,
        "information": {"output_tokens": "exact"},
        "policies": [{"name": "a", **policy}],
        **changes,
    }
    made: Any = parse(document, Path())
    reason: str | None = made.world.resolve(made.case, made.policies[0], Path())
    return reason


@pytest.mark.parametrize("pool", ["together", "mixed_pool", "accellm"])
def test_a_route_beside_a_pool(pool: str) -> None:
    assert "its route would never be asked" in str(why(TOGETHER, {"pool": pool, "route": "random"}))
    assert "its route would never be asked" in str(why(APART, {"pool": pool, "route": "least_outstanding"}))
    assert why(TOGETHER, {"pool": pool}) is None


def test_a_decode_beside_a_pool_is_asked_where_hosts_come_and_go() -> None:
    policy = {"pool": "mixed_pool", "decode": "random"}
    assert "its decode would never be asked" in str(why(APART, policy))
    assert why(APART, policy, **FAILING) is None
    assert why(APART, {**policy, "scale": "reactive"}, scaling={"least": 2}) is None


def test_a_decode_without_prompts_apart() -> None:
    assert "no replica of the fleet has the role prefill" in str(why(TOGETHER, {"decode": "random"}))
    assert "no replica of the fleet has the role prefill" in str(why(TOGETHER, {"decode": "random"}, **FAILING))
    assert why(APART, {"decode": "random", "route": "random"}) is None
    assert why([*APART[:1], *TOGETHER], {"decode": "random"}) is None
    assert why(TOGETHER, {"route": "random"}) is None


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_no_example_has_one(file: Path) -> None:
    scenario: Any = read(file, [])
    for policy in scenario.policies:
        reason = scenario.world.resolve(scenario.case, policy, scenario.folder)
        assert reason is None, policy["name"]
