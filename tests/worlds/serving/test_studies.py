"""The studies that are named beside the policies exist, play the policies, and none is forgotten."""

from pathlib import Path
from typing import Any

import pytest

from rota.kernel.errors import InputError
from rota.rules import ORDERS, PLACES
from rota.study.scenario import read_document
from rota.worlds.serving import policies
from rota.worlds.serving.policies.studies import ELSEWHERE, STUDIES
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
    return found | named(EXAMPLES / f"{name}.yaml")


def named(file: Path) -> set[str]:
    """The policies that a file names. Not checked otherwise: the parity studies need files that are not here."""
    found: set[str] = set()
    for policy in read_document(file)["policies"]:
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


@pytest.mark.parametrize("policy", ELSEWHERE)
def test_a_study_of_another_world_plays_its_rule(policy: str) -> None:
    assert policy in {*ORDERS, *PLACES}
    assert policy not in STUDIES
    assert policy in named(EXAMPLES.parents[1] / ELSEWHERE[policy])


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


def test_the_list_has_a_source_for_every_policy(capsys: Any) -> None:
    import json

    from rota.cli.list import list_known

    list_known("policies", as_json=True, world="serving")
    rows = json.loads(capsys.readouterr().out)["policies"]
    assert [row["name"] for row in rows if not row["source"]] == []
    found = {row["name"]: row["source"] for row in rows}
    assert found["fcfs"].startswith("Kingman")
    assert found["predictive"].startswith("Brown")
    assert found["plas"].startswith("Luo et al., Autellix")
    assert "arXiv 2511.02230" in found["continuum"]
    assert found["vllm_v1"].startswith("vLLM 0.8")
    assert found["kv_router"].startswith("Dynamo documentation")
    assert found["slo_slack"].startswith("Ours")
    assert found["reuse_and_work"] == "Ours"


def test_where_nobody_looks_a_policy_is_a_line(capsys: Any) -> None:
    import json

    from rota.cli.list import list_known

    list_known("policies", as_json=True, world="serving")
    rows = json.loads(capsys.readouterr().out)["policies"]
    list_known("policies", as_json=False, world="serving")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows) + 1
    assert all(row["source"] in line for row, line in zip(rows, lines[1:], strict=True))


def test_a_world_that_is_not_known() -> None:
    from rota.cli.list import list_known

    with pytest.raises(InputError, match="did you mean 'serving'"):
        list_known("policies", as_json=True, world="servin")
    with pytest.raises(InputError, match="--world goes with policies only"):
        list_known("gpus", as_json=True, world="serving")
