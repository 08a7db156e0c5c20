"""`rota check`."""

from pathlib import Path

from rota.kernel.errors import InputError
from rota.study.scenario import read


def check_scenario(file: Path, overrides: list[str]) -> None:
    """Read a scenario, its first workload and its policies, and say what would be run. Raises InputError."""
    scenario = read(file, overrides)
    for label, text in scenario.world.describe(scenario.case):
        print(f"{label}: {text}")
    workload = scenario.world.workload(scenario.case, scenario.seeds[0])
    print(f"jobs: {len(workload):,} on seed {scenario.seeds[0]}")
    for notice in getattr(workload, "notices", ()):
        print(f"notice: {notice}")
    applies = 0
    for policy in scenario.policies:
        reason = scenario.world.resolve(scenario.case, policy, scenario.folder)
        print(f"policy {policy['name']}: {'applies' if reason is None else f'would be skipped: {reason}'}")
        applies += reason is None
    if not applies:
        raise InputError("policies: none applies here; the reasons are above")
    print(f"ok: {applies} policies on {len(scenario.seeds)} seeds, ranked by {scenario.objective}")
