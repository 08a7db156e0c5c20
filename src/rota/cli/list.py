"""`rota list`: worlds, policies, GPUs, models."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rota.kernel.errors import InputError, nearest

Rows = list[dict[str, Any]]


def list_known(what: str, as_json: bool) -> None:
    """Print what there is of a kind. Raises InputError for an unknown kind."""
    if what not in KINDS:
        raise InputError(f"list: '{what}' is not a kind{nearest(what, KINDS)}")
    rows = KINDS[what]()
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
    Console().print(table)


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
            }
            for name, found in room.items()
        ]

    return [
        *rows("every", ("order", "hold", "victim"), ORDERS),
        *rows("every", ("route",), PLACES),
        *rows("every", ("share",), ALLOTS),
        *(row for name in WORLDS for role, room in world(name).rooms.items() for row in rows(name, (role,), room)),
    ]


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
