"""Agreement with splitwise-sim on its two stored runs. Skipped where these are not at hand."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rota.study.scenario import read
from rota.worlds.serving.metrics import outcomes
from rota.worlds.serving.simulate import Simulation


def ours_and_theirs(policy: int, stored: str, data: Path, repository: Path) -> tuple[pl.DataFrame, Simulation]:
    """A row a request: ttft, tbt (the rest over all output tokens, as there) and e2e, ours and `_sim`."""
    recipe = data / "traces/peer_recipe"
    changes = [f"workload.trace={recipe}/workload_conv10k_q20.csv.gz"]
    changes += [f"fleet.{k}.timing.tables={data}/traces/splitwise" for k in range(3)]
    scenario = read(repository / "examples/serving/parity-splitwise.yaml", changes)
    work = scenario.world.workload(scenario.case, 0)
    run: Simulation = scenario.world.simulation(scenario.case, work, scenario.policies[policy], 0)  # type: ignore[attr-defined]
    run.run()
    rows = outcomes(run, scenario.case.slo)
    theirs = pl.read_csv(recipe / f"splitwise_out_{stored}_10k_q20.csv.gz").sort("request_ids")
    assert theirs["prompt_sizes"].to_list() == work.prompt_tokens.tolist()
    found = pl.DataFrame({
        "ttft": rows["ttft"],
        "tbt": (rows["e2e"] - rows["ttft"]) / work.output_tokens,
        "e2e": rows["e2e"],
        "ttft_sim": theirs["ttft_times"],
        "tbt_sim": theirs["tbt_times"],
        "e2e_sim": theirs["response_times"],
    })  # fmt: skip
    return found, run


def percentiles_agree(found: pl.DataFrame, within: float) -> None:
    for name in ("ttft", "tbt", "e2e"):
        mine, other = (np.percentile(found[column].to_numpy(), [50, 90, 99]) for column in (name, f"{name}_sim"))
        assert mine == pytest.approx(other, rel=within), name


def test_four_servers(shared_data: Path, repository: Path) -> None:
    """Four mixed servers under token_jsq: all 10,000 requests are equal to the six digits that are stored."""
    found, _ = ours_and_theirs(0, "base4h_jsq", shared_data, repository)
    percentiles_agree(found, 0.0001)
    for name in ("ttft", "tbt", "e2e"):
        assert (found[name] - found[f"{name}_sim"]).abs().max() < 2e-6  # type: ignore[operator]
