"""Mistakes that concern fleets and programs end in one line that says where, what rule and what was found."""

import json
from pathlib import Path
from typing import Any

import pytest

from rota.kernel.errors import InputError
from rota.study.scenario import parse
from rota.worlds.serving.programs import read_programs

GROUP = {"model": "llama-3-8b", "gpu": "a100-80g"}
BASE: dict[str, Any] = {
    "world": "serving",
    "workload": {"generate": {"kind": "chat", "requests": 50, "rate": 2.0}},
    "fleet": [{**GROUP, "count": 3}],
    "policies": [{"name": "a"}],
}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fleet": [{**GROUP, "role": "prefill"}]}, "prefill replicas and none that can decode"),
        ({"fleet": [{**GROUP, "role": "decode"}]}, "decode replicas and none that can prefill"),
        ({"fleet": [{**GROUP, "role": "prefil"}]}, "role"),
        ({"links": {"bandwidth": 0}}, "links.*bandwidth"),
        ({"links": {"latency": -1}}, "links.*latency"),
        ({"links": {"overlap": 1.0}}, "links.*overlap"),
        ({"links": {"bandwith": 1e9}}, "bandwith.*bandwidth"),
        ({"fleet": [{**GROUP, "swap": {"blocks": 0}}]}, "swap.*blocks"),
        ({"fleet": [{**GROUP, "swap": {"blocks": 10, "bandwidth": 0}}]}, "swap.*bandwidth"),
        ({"information": {"output_tokens": {"bucket": {"k": 5, "accuracy": 1.5}}}}, "accuracy"),
        ({"information": {"output_tokens": {"rank": {"tau": 2.0}}}}, "tau"),
        ({"information": {"output_tokens": {"noisy": {"sigma": -1}}}}, "sigma"),
        ({"scaling": {"least": 3, "most": 2}}, "least <= first <= most"),
        ({"scaling": {"most": 9}}, "<= 3 replicas"),
        ({"failures": {"mean_between": 0}}, "mean_between"),
        ({"failures": {"outages": [{"replica": 0, "start": 1, "seconds": 5, "slower": 0.5}]}}, "slower"),
        ({"policies": [{"name": "a", "migrate": {"llumnix": {"below": 9, "above": 1}}}]}, "below <= above"),
        (
            {"policies": [{"name": "a", "migrate": {"llumnix": {"stages": 0}}}]},
            "last_blocks and stages must be 1 or more",
        ),
        ({"policies": [{"name": "a", "migrate": {"llumnix": {"stage": 2}}}]}, "stage"),
        ({"policies": [{"name": "a", "route": {"freest": {"headroom": -1}}}]}, "headroom must be 0 or more tokens"),
        ({"policies": [{"name": "a", "scale": "reactiv"}]}, "did you mean 'reactive'"),
        ({"workload": {"programs": {"kind": "chain", "count": 5, "rate": 1, "delay": -1}}}, "delay"),
        ({"workload": {"programs": {"kind": "ring", "count": 5, "rate": 1}}}, "kind"),
    ],
)
def test_scenarios(changes: dict[str, Any], says: str) -> None:
    def check() -> None:
        made = parse({**BASE, **changes}, Path())
        made.world.resolve(made.case, made.policies[0], Path())

    with pytest.raises(InputError, match=says) as found:
        check()
    assert "\n" not in str(found.value)


CALL = {"program": "p", "id": "a", "prompt_tokens": 10, "output_tokens": 5}


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        ([{**CALL, "after": ["b"], "id": "a"}, {**CALL, "after": ["a"], "id": "b"}], "circle|wait for"),
        ([{**CALL, "arrival": 0.0}, {**CALL, "id": "b", "after": ["z"]}], "z"),
        ([{**CALL, "arrival": 0.0}, {**CALL, "id": "b", "after": ["a"], "delay": -2.0}], "delay"),
        ([{**CALL, "arrival": 0.0}, {**CALL, "arrival": 1.0}], "a"),
        ([CALL], "arrival"),
        ([{**CALL, "arrival": 0.0, "output_tokens": 0}], "output_tokens"),
    ],
)
def test_programs(tmp_path: Path, calls: list[dict[str, Any]], says: str) -> None:
    file = tmp_path / "programs.jsonl"
    file.write_text("\n".join(map(json.dumps, calls)))
    with pytest.raises(InputError, match=says) as found:
        read_programs(file)
    assert "\n" not in str(found.value)
    assert "programs.jsonl" in str(found.value)
