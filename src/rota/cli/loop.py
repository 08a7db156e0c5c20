"""`rota loop`: from a recording to the policy of the running router."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rota.kernel.errors import InputError

if TYPE_CHECKING:
    from rota.route.loop import Row
    from rota.route.replay import Replay, Shape

SHOWN = ("ttft_mean", "ttft_p90", "ttft_p99", "tpot_mean", "e2e_mean", "e2e_p90")


def run_loop(
    recording: Path,
    policies: Sequence[str],
    objective: str,
    shape: "Shape",
    socket: Path | None,
    watch: float,
    scenario: Path | None,
    as_json: bool,
    under: str | None = None,
    follow: bool = True,
) -> None:
    """Replay, print the league, and with a socket apply the winner and compare. Raises InputError."""
    from rota.route.loop import apply, errors, league, since
    from rota.route.replay import measured, read_replay

    if recording.is_socket():
        recording, under = _of_router(recording, under)
    replay = read_replay(recording, shape, under, follow)
    table = league(replay, policies, objective)
    recorded = next(row for row in table if row.recorded)
    seen = measured(replay.rows)
    if scenario is not None:
        _write_scenario(scenario, replay.document, table)
    best = table[0]
    document = _document(recording, objective, replay, table, seen)
    if not as_json:
        _print(table, objective, seen, recorded)
        for name, off in replay.off.items():
            if off > 0.05:
                print(
                    f"note: backend {name}: a replay of its own requests is off by {100 * off:.0f} %; it was overloaded, or shares its engine"
                )
    if socket is not None:
        apply(socket, replay, best.policy)
        document["applied"] = best.policy
        if not as_json:
            print(f"applied: {best.policy}")
        if watch > 0:
            start = time.time()
            time.sleep(watch)
            after = since(recording, start, best.policy)
            document["after"] = after
            document["prediction_error"] = errors(best.metrics, after)
            if not as_json:
                _compare(best, after, seen, objective)
    if as_json:
        print(json.dumps(document))


def _document(
    recording: Path, objective: str, replay: "Replay", table: Sequence["Row"], seen: Mapping[str, float]
) -> dict[str, object]:
    """What is known before anything is applied, for programs to read."""
    from rota.route.loop import errors

    recorded = next(row for row in table if row.recorded)
    return {
        "recording": str(recording),
        "objective": objective,
        "fits": {
            name: {"coefficients": fit.coefficients, "p90_error": fit.p90_error, "off": replay.off[name]}
            for name, fit in replay.fits.items()
        },
        "league": [
            {"policy": row.policy, "recorded": row.recorded, "skipped": row.skipped, "metrics": row.metrics}
            for row in table
        ],
        "measured": seen,
        "replay_error": errors(recorded.metrics, seen),
    }


def _of_router(socket: Path, under: str | None) -> tuple[Path, str | None]:
    """Where a running router records, and the policy that it runs. Raises InputError where it records nothing."""
    from rota.route.admin import ask

    said = ask(socket, {"do": "status"})
    if said["recording"] is None:
        raise InputError(f"{socket}: that router records nothing; give it recording: {{folder: recording}}")
    return Path(said["recording"]), under or str(said["status"]["policy"])


def _write_scenario(path: Path, document: Mapping[str, object], table: "Sequence[Row]") -> None:
    import yaml

    from rota.route.loop import spec

    policies = [{"name": row.policy, "route": spec(row.policy)} for row in table]
    try:
        path.write_text(yaml.safe_dump({**_plain(document), "policies": policies}, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def _plain(document: Mapping[str, object]) -> dict[str, object]:
    return dict(json.loads(json.dumps(document)))


def _print(table: "Sequence[Row]", objective: str, seen: Mapping[str, float], recorded: "Row") -> None:
    from rich.console import Console
    from rich.table import Table

    columns = [objective, *(name for name in SHOWN if name != objective)]
    made = Table(box=None, pad_edge=False)
    made.add_column("policy")
    for name in (*columns, "gain"):
        made.add_column(name, justify="right")
    base = recorded.metrics[objective]
    for row in table:
        if not row.metrics:
            made.add_row(row.policy, row.skipped)
            continue
        gain = f"{100 * (1 - row.metrics[objective] / base):+.1f} %" if base else ""
        name = f"{row.policy} (recorded)" if row.recorded else row.policy
        made.add_row(name, *(_seconds(row.metrics[each]) for each in columns), gain)
    made.add_row("measured", *(_seconds(seen[each]) if each in seen else "" for each in columns), "")
    Console(width=None if Console().is_terminal else 140).print(made)


def _compare(best: "Row", after: Mapping[str, float], before: Mapping[str, float], objective: str) -> None:
    for name in ("ttft_mean", "ttft_p90", "e2e_mean", "e2e_p90"):
        if name in after:
            share = best.metrics[name] / after[name] - 1
            gain = 1 - after[name] / before[name]
            said = f"{name}: measured {_seconds(after[name])}, predicted {_seconds(best.metrics[name])} ({100 * share:+.1f} %)"
            print(f"{said}, gain over the recording {100 * gain:+.1f} %")


def _seconds(value: float) -> str:
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.2f} s"
