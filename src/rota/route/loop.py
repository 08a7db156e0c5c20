"""The loop: a recording is replayed under a set of policies, and the winner is applied to the running router."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rota.kernel.errors import InputError
from rota.route.replay import Replay, measured
from rota.worlds.serving.build import work_rates
from rota.worlds.serving.settings import Case

POLICIES = ("round_robin", "random", "power_of_two", "least_outstanding", "least_work")


@dataclass(frozen=True)
class Row:
    """What the replay says of one policy."""

    policy: str
    metrics: Mapping[str, float]
    recorded: bool  # the policy under which the recording was made
    skipped: str = ""  # why it was not replayed


def league(
    replay: Replay, names: Sequence[str], objective: str, done: Callable[[str], None] = lambda name: None
) -> list[Row]:
    """Every policy on the recorded requests, the best first; the recorded policy is always among them.

    Raises:
        InputError: an unknown policy or objective, or a recording made under several policies.
    """
    recorded = recorded_policy(replay)
    wanted = list(dict.fromkeys([*names, recorded]))
    scenario = replay.scenario([{"name": name, "route": spec(name)} for name in wanted])
    measure = scenario.world.measures.get(objective)
    if measure is None:
        from rota.kernel.errors import nearest

        raise InputError(f"objective: '{objective}' is not a metric{nearest(objective, scenario.world.measures)}")
    work = scenario.world.workload(scenario.case, 0)
    rows = []
    for policy in scenario.policies:
        name = str(policy["name"])
        reason = scenario.world.resolve(scenario.case, policy, scenario.folder)
        metrics = {} if reason else scenario.world.run(scenario.case, work, policy, 0).metrics
        rows.append(Row(name, metrics, name == recorded, reason or ""))
        done(name)
    sign = 1 if measure.smaller_is_better else -1
    return sorted(rows, key=lambda row: sign * row.metrics[objective] if row.metrics else float("inf"))


def spec(name: str) -> Any:
    """What a configuration says for a policy as it is spelt in recordings and on the command line: ``power_of_two(d=3)`` is ``{power_of_two: {d: 3}}``.

    Raises:
        InputError: parameters that are none.
    """
    import yaml

    policy, bracket, inside = name.partition("(")
    if not bracket:
        return name
    try:
        if not inside.endswith(")"):
            raise ValueError
        pairs = [part.split("=", 1) for part in split(inside[:-1])]
        return {policy.strip(): {key.strip(): yaml.safe_load(value) for key, value in pairs}}
    except (ValueError, yaml.YAMLError):
        raise InputError(f"policy '{name}': expected parameters as in power_of_two(d=2)") from None


def split(text: str) -> list[str]:
    """The parts of a list with commas; those in brackets separate nothing."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def recorded_policy(replay: Replay) -> str:
    """The place policy of the recording. Raises InputError where there were several: they cannot be told apart in a replay."""
    found = [name for name in replay.rows["policy"].unique(maintain_order=True).to_list() if name]
    if len(found) != 1:
        raise InputError(
            f"{replay.folder.name}: was recorded under {len(found)} policies ({', '.join(found)}); choose one with --under"
        )
    return str(found[0])


def rates(replay: Replay) -> dict[str, tuple[float, float]]:
    """Seconds of work a prompt token and an output token of each backend: what `least_work` counts with, live as in the replay."""
    from rota.worlds.serving.timing import build

    scenario = replay.scenario([{"name": "any"}])
    case: Case = scenario.case
    from rota.worlds.serving import catalogue

    found = {}
    for name, group in zip(replay.backends, case.fleet, strict=True):
        made = build(group.timing, catalogue.model(group.model), catalogue.gpu(group.gpu), group.tp, case.folder)
        prefill, decode = work_rates(made)
        if prefill > 0 and decode > 0:
            found[name] = (prefill, decode)
    return found


def errors(predicted: Mapping[str, float], seen: Mapping[str, float]) -> dict[str, float]:
    """Predicted over measured, less one."""
    return {name: predicted[name] / seen[name] - 1 for name in seen if name in predicted and seen[name] > 0}


def apply(socket: Path, replay: Replay, place: str) -> None:
    """Swap the place policy of the running router. Raises InputError where it refuses."""
    from rota.route.admin import ask

    question: dict[str, Any] = {"do": "policy", "place": spec(place), "rates": rates(replay)}
    ask(socket, question)


def since(folder: Path, moment: float, place: str) -> dict[str, float]:
    """What was measured of requests that arrived after a moment (seconds since 1970) under a policy. Raises InputError where there are none."""
    from datetime import UTC, datetime

    import polars as pl

    from rota.worlds.serving.recording import rows

    start = datetime.fromtimestamp(moment, UTC)
    return measured(rows(folder).filter((pl.col("arrival") >= start) & (pl.col("policy") == place)))
