"""`rota list`: worlds, policies, GPUs, models."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rota.cli.sources import source
from rota.kernel.errors import InputError, nearest

Rows = list[dict[str, Any]]
WIDE = 10_000  # characters: where no person looks, each row is one line


def list_known(what: str, as_json: bool, world: str | None = None) -> None:
    """Print what there is of a kind, of policies only those that a world can use. Raises InputError for an unknown kind or world."""
    if what not in KINDS:
        raise InputError(f"list: '{what}' is not a kind{nearest(what, KINDS)}")
    rows = KINDS[what]()
    if world is not None:
        rows = _of_world(what, rows, world)
    if as_json:
        print(json.dumps({what: rows}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold", no_wrap=name == "name")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def _of_world(what: str, rows: Rows, name: str) -> Rows:
    from rota.worlds import WORLDS, world

    if what != "policies":
        raise InputError(f"list {what}: --world goes with policies only; leave it out")
    if name not in WORLDS:
        raise InputError(f"list policies: world '{name}' is not known{nearest(name, WORLDS)}")
    roles = set(world(name).roles)
    rows = [row for row in rows if row["world"] == name or (row["world"] == "every" and roles & set(row["roles"]))]
    return [{**row, "roles": [role for role in row["roles"] if role in roles]} for row in rows]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _worlds() -> Rows:
    from rota.worlds import WORLDS, world

    return [{"name": name, "roles": list(world(name).roles), "sections": list(world(name).sections)} for name in WORLDS]


def _policies() -> Rows:
    from rota.rules import ALLOTS, ORDERS, PLACES
    from rota.worlds import WORLDS, world

    def rows(world: str, roles: Iterable[str], room: Mapping[str, Any]) -> Rows:
        return [
            {
                "name": name,
                "world": world,
                "roles": list(roles),
                "reads": list(found.reads) if isinstance(found.reads, tuple) else [],
                "idea": (found.__doc__ or "").strip().splitlines()[0],
                "source": source(found),
                "study": _study(name) if world in ("serving", "every") else "",
            }
            for name, found in room.items()
        ]

    return [
        *rows("every", ("order", "hold", "victim"), ORDERS),
        *rows("every", ("route",), PLACES),
        *rows("every", ("share",), ALLOTS),
        *(row for name in WORLDS for role, room in world(name).rooms.items() for row in rows(name, (role,), room)),
    ]


def _study(name: str) -> str:
    """The study that shows a policy, of the serving world where there is one."""
    from rota.worlds.serving.policies.studies import ELSEWHERE, STUDIES

    return f"examples/serving/{STUDIES[name]}.yaml" if name in STUDIES else ELSEWHERE.get(name, "")


def _gpus() -> Rows:
    from rota.worlds.serving.catalogue import GIB, gpus

    return [
        {
            "name": gpu.name,
            "memory_gib": round(gpu.memory / GIB, 1),
            "bandwidth_tb_s": gpu.bandwidth / 1e12,
            "bf16_tflops": gpu.bf16 / 1e12,
            "tdp_watts": gpu.tdp,
            "source": gpu.source,
        }
        for gpu in gpus().values()
    ]


def _models() -> Rows:
    from rota.worlds.serving.catalogue import kv_bytes_per_token, models

    return [
        {
            "name": model.name,
            "parameters_billion": round(model.parameters / 1e9, 2),
            "layers": model.layers,
            "kv_heads": model.kv_heads,
            "context": model.context,
            "kv_kib_per_token": round(kv_bytes_per_token(model) / 1024, 1),
        }
        for model in models().values()
    ]


KINDS: dict[str, Callable[[], Rows]] = {"worlds": _worlds, "policies": _policies, "gpus": _gpus, "models": _models}
