"""The dashboard: one page of our own, and a stream of what it shows."""

import asyncio
import json
from importlib.resources import files
from math import isfinite
from typing import Any

from aiohttp import web

from rota.route.backend import Backend
from rota.route.meters import percentile
from rota.route.router import Router

PAGE = files("rota.route").joinpath("dashboard.html").read_bytes()
EVERY = 1.0  # seconds between two pictures


def picture(router: Router) -> dict[str, Any]:
    """Everything that the page shows, as plain data; also what `status` of the admin socket says."""
    now = router.clock()
    first, gaps = router.meters.recent(now)
    return {
        "seconds": now,
        "draining": router.draining,
        "policy": router.decisions.name,
        "hold": router.decisions.hold_name,
        "waiting": len(router.line),
        "outstanding": router.fleet.outstanding,
        "decisions": router.decisions.asked,
        "fallbacks": router.decisions.fallbacks,
        "shed": router.line.shed,
        "retries": router.retries,
        "ttft": {f"p{p}": percentile(first, p / 100) for p in (50, 90, 99)},
        "itl": {f"p{p}": percentile(gaps, p / 100) for p in (50, 90, 99)},
        "answers": len(first),
        "backends": [_backend(each, now) for each in router.fleet.backends.values()],
        "tenants": _tenants(router),
        "recent": [_decision(each) for each in list(router.recent)[::-1][:20]],
    }


def _decision(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no inf: an impossible host has the cost null."""
    costs = {name: cost if isfinite(cost) else None for name, cost in row["costs"].items()}
    return {**row, "costs": costs}


def _backend(backend: Backend, now: float) -> dict[str, Any]:
    seen = backend.fresh(now)
    return {
        "name": backend.name,
        "state": backend.state(now),
        "because": "" if backend.up else backend.down_because,
        "outstanding": len(backend.outstanding),
        "limit": backend.settings.max_outstanding,
        "queued": backend.queued(now),
        "running": backend.count() - backend.queued(now),
        "kv_use": None if seen is None else seen.kv_use,
        "age": None if backend.reported is None else now - backend.reported.at,
        "sent": backend.sent,
        "finished": backend.finished,
        "failed": backend.failed,
        "models": backend.models,
    }


def _tenants(router: Router) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "name": each.name or "(none)",
            "active": each.active,
            "requests": each.requests,
            "refused": each.refused,
            "tokens": each.prompt_tokens + each.output_tokens,
        }
        for each in router.tenants.all
    ]
    return sorted(found, key=lambda row: -row["tokens"])[:20]


async def events(router: Router, request: web.BaseRequest) -> web.StreamResponse:
    """Server-sent events: a picture a second, until the client leaves or the router drains."""
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "Server": "rota"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    while True:
        await response.write(b"data: " + json.dumps(picture(router)).encode() + b"\n\n")
        if router.draining:
            break
        await asyncio.sleep(EVERY)
    await response.write_eof()
    return response
