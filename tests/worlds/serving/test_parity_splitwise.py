"""Agreement with splitwise-sim on its two stored runs. Skipped where these are not at hand."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rota.study.scenario import read
from rota.worlds.serving.metrics import outcomes
from rota.worlds.serving.simulate import Simulation


def ours_and_theirs(file: str, stored: str, data: Path, repository: Path) -> tuple[pl.DataFrame, Simulation]:
    """A row a request: ttft, tbt (the rest over all output tokens, as there) and e2e, ours and `_sim`."""
    recipe = data / "traces/peer_recipe"
    changes = [f"workload.trace={recipe}/workload_conv10k_q20.csv.gz"]
    groups = 2 if file.endswith("pools") else 1
    changes += [f"fleet.{k}.timing.tables={data}/traces/splitwise" for k in range(groups)]
    scenario = read(repository / f"examples/serving/{file}.yaml", changes)
    work = scenario.world.workload(scenario.case, 0)
    run: Simulation = scenario.world.simulation(scenario.case, work, scenario.policies[0], 0)  # type: ignore[attr-defined]
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


@pytest.mark.parametrize(("file", "stored"), [
    ("parity-splitwise", "base4h_jsq"),  # four mixed servers under token_jsq
    ("parity-splitwise-pools", "splitHH_mixed"),  # two for prompts and two for tokens under the mixed pool
])  # fmt: skip
def test_every_request(file: str, stored: str, shared_data: Path, repository: Path) -> None:
    """All 10,000 requests are equal to the six digits that are stored, and so are p50, p90 and p99 (asked for: 3 %)."""
    found, run = ours_and_theirs(file, stored, shared_data, repository)
    for name in ("ttft", "tbt", "e2e"):
        mine, other = found[name].to_numpy(), found[f"{name}_sim"].to_numpy()
        assert np.percentile(mine, [50, 90, 99]) == pytest.approx(np.percentile(other, [50, 90, 99]), rel=1e-4), name
        assert np.abs(mine - other).max() < 2e-6, name
    if run.fleet is not None and run.fleet.pools is not None:
        assert run.fleet.pools.lends == 2  # both token machines, under bursts of long prompts
