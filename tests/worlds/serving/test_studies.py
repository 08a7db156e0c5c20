"""The studies that are named beside the policies exist, play the policies, and none is forgotten."""

from pathlib import Path
from typing import Any

import pytest

from rota.kernel.errors import InputError
from rota.rules import ORDERS, PLACES
from rota.study.scenario import read
from rota.worlds.serving import policies
from rota.worlds.serving.policies.studies import STUDIES
from rota.worlds.serving.world import DEFAULTS

ROOMS = [
    room for name, room in vars(policies).items() if isinstance(room, dict) and name.isupper() and name != "POLICIES"
]
KNOWN = {*ORDERS, *PLACES, *(name for room in ROOMS for name in room)}
EXAMPLES = Path(__file__).parents[3] / "examples/serving"
OURS = sorted({*STUDIES.values()})


def played(name: str) -> set[str]:
    """The policies that a study names, defaults included."""
    found = set(DEFAULTS.values())
    for policy in read(EXAMPLES / f"{name}.yaml", []).policies:
        for role, value in policy.items():
            if role != "name":
                found |= {value} if isinstance(value, str) else set(value)
    return found


@pytest.mark.parametrize("policy", STUDIES)
def test_a_study_plays_its_policy(policy: str) -> None:
    assert policy in KNOWN
    assert policy in played(STUDIES[policy])


@pytest.mark.parametrize("name", OURS)
def test_no_policy_of_a_study_is_forgotten(name: str) -> None:
    assert played(name) <= set(STUDIES)


def test_the_list_tells_them(capsys: Any) -> None:
    import json

    from rota.cli.list import list_known

    list_known("policies", as_json=True, world="serving")
    rows = json.loads(capsys.readouterr().out)["policies"]
    assert {row["world"] for row in rows} == {"serving", "every"}
    assert all(row["roles"] for row in rows)
    found = {row["name"]: row for row in rows}
    assert found["llumnix"]["study"] == "examples/serving/migration.yaml"
    assert "OSDI 2024" in found["llumnix"]["source"]
    assert found["llumnix"]["roles"] == ["migrate"]
    assert "free_blocks" in found["llumnix"]["reads"]


def test_a_world_that_is_not_known() -> None:
    from rota.cli.list import list_known

    with pytest.raises(InputError, match="did you mean 'serving'"):
        list_known("policies", as_json=True, world="servin")
    with pytest.raises(InputError, match="--world goes with policies only"):
        list_known("gpus", as_json=True, world="serving")
