"""Seconds that a replica starts anew after a failure: 30 after random ones, after listed ones what is given, by hand."""

from pathlib import Path
from typing import Any

import pytest

from rota.kernel.errors import InputError
from rota.study.scenario import parse
from rota.worlds.serving.build import RESTART, plan

GROUP = {"model": "llama-3-8b", "gpu": "a100-80g", "timing": {"linear": {"constant": 0.1}}}
OUTAGE = {"replica": 0, "start": 0.35, "seconds": 2.0}


def scenario(folder: Path, **failures: Any) -> Any:
    (folder / "one.csv").write_text("arrival,prompt_tokens,output_tokens\n0.0,10,5\n")
    workload = {"trace": "one.csv", "origin": "keep", "arrival_unit": "s"}
    document = {"world": "serving", "workload": workload, "fleet": [GROUP], "failures": failures}
    return parse({**document, "policies": [{"name": "a"}]}, folder)


@pytest.mark.parametrize(
    ("failures", "finish"),
    [
        ({"outages": [OUTAGE]}, 2.55),  # down at 0.35 s with three tokens out, up at 2.35, two more iterations
        ({"outages": [OUTAGE], "restart": 0}, 2.55),
        ({"outages": [OUTAGE], "restart": 3}, 5.55),
        # the first one takes it down, and the second makes it five times slower, with no restart after it
        ({"outages": [OUTAGE, {"replica": 0, "start": 5.3, "seconds": 9, "slower": 5}], "restart": 2.9}, 5.85),
    ],
)
def test_listed_outages(failures: dict[str, Any], finish: float, tmp_path: Path) -> None:
    made = scenario(tmp_path, **failures)
    run = made.world.run(made.case, made.world.workload(made.case, 0), made.policies[0], 0)
    assert run.outcomes["restarts"][0] == 1
    assert run.outcomes["finish"][0] == pytest.approx(finish)


def test_random_failures_restart_in_30_seconds(tmp_path: Path) -> None:
    def first(**more: float) -> float:
        outage = next(plan(scenario(tmp_path, mean_between=600, **more).case, 0).outages[0])
        return outage.end - outage.start

    assert first() - first(restart=0) == pytest.approx(RESTART)
    assert first(restart=5) - first(restart=0) == pytest.approx(5.0)


def test_what_is_refused(tmp_path: Path) -> None:
    again = {**OUTAGE, "start": 4.0}
    scenario(tmp_path, outages=[OUTAGE, again])
    with pytest.raises(InputError, match=r"still away from its outage before, until 5\.35 s"):
        scenario(tmp_path, outages=[OUTAGE, again], restart=3)
    with pytest.raises(InputError, match=r"failures\.restart: no outage takes a replica down"):
        scenario(tmp_path, outages=[{**OUTAGE, "slower": 2}], restart=3)
