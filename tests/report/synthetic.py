"""A study that never ran, with the shape of a real one, for the tests of the report."""

from pathlib import Path

import numpy as np
import polars as pl

from rota.kernel.world import Measure
from rota.study.store import Study

NAMES = (
    "vllm round robin", "vllm least outstanding", "chunked prefill 512", "chunked prefill, prefix aware", "power of two choices",
    "shortest prompt first", "predicted SRPT", "static batches",
)  # fmt: skip
KNEW = ("nothing", "queue lengths", "queue lengths", "queue lengths, prefix hits", "two sampled queues", "prompt_tokens",
        "output_tokens estimated by a predictor", "nothing")  # fmt: skip
SLOWNESS = (1.16, 1.05, 0.98, 0.93, 1.04, 1.02, 0.90, 1.9)


def _measures() -> dict[str, Measure]:
    times = {"ttft": "time to first token", "tpot": "time per output token", "e2e": "end-to-end latency"}
    made = {f"{key}_mean": Measure(f"{key}_mean", f"mean {title}", "s", per_job=key) for key, title in times.items()}
    for key, title in times.items():
        for q in (50, 90, 99):
            made[f"{key}_p{q}"] = Measure(f"{key}_p{q}", f"p{q} {title}", "s")
    made["goodput"] = Measure("goodput", "requests per second within the SLO", "1/s", smaller_is_better=False)
    return made


def _jobs(name: str, seed: int, slowness: float, jobs: int) -> dict[str, np.ndarray]:
    shared, own = np.random.default_rng(seed), np.random.default_rng([seed, len(name)])
    arrival = np.cumsum(shared.exponential(1 / 24, jobs))
    tokens = np.minimum(shared.lognormal(5.0, 0.9, jobs), 2000).astype(int) + 1
    load = 1 + 0.8 * np.sin(arrival / arrival[-1] * 9) ** 2 * slowness**3
    ttft = own.lognormal(-2.1, 0.75, jobs) * load * slowness**2
    tpot = own.lognormal(-3.7, 0.22, jobs) * slowness * load**0.3
    status = np.where(own.random(jobs) < 0.003, "rejected", "finished").astype(object)
    gone = status == "rejected"
    e2e = ttft + tpot * (tokens - 1)
    for column in (ttft, tpot, e2e):
        column[gone] = np.nan
    tpot[tokens == 1] = np.nan
    return {
        "job": np.arange(jobs), "arrival": arrival, "finish": arrival + e2e, "status": status, "ttft": ttft, "tpot": tpot, "e2e": e2e,
        "output_tokens": tokens, "replica": own.integers(0, 4, jobs),
    }  # fmt: skip


def _summary(jobs: dict[str, np.ndarray]) -> dict[str, float]:
    made: dict[str, float] = {}
    for key in ("ttft", "tpot", "e2e"):
        made[f"{key}_mean"] = float(np.nanmean(jobs[key]))
        made |= {f"{key}_p{q}": float(np.nanpercentile(jobs[key], q)) for q in (50, 90, 99)}
    good = (jobs["ttft"] < 0.5) & (jobs["tpot"] < 0.05)
    return made | {"goodput": float(good.sum() / np.nanmax(jobs["finish"]))}


def _series(slowness: float, seed: int, name: str, end: float) -> pl.DataFrame:
    own = np.random.default_rng([seed, len(name), 7])
    frames = []
    for host in range(4):
        time = np.linspace(0, end, 400)
        wave = np.sin(time / end * 9) ** 2
        noise = np.convolve(own.normal(0, 1, 420), np.ones(21) / 5, "valid")
        running = np.clip(18 + 25 * wave * slowness + 3 * noise, 0, 64)
        queued = np.clip(14 * (wave * slowness**2 - 0.8) * 4 + 5 * noise, 0, None)
        frames.append(
            {
                "time": time,
                "host": np.full(400, host),
                "queued": queued.round(),
                "running": running.round(),
                "kv_use": running / 70,
            }
        )
    columns = {key: np.concatenate([frame[key] for frame in frames]) for key in frames[0]}
    return pl.DataFrame(columns)


def _spans(name: str) -> pl.DataFrame:
    own = np.random.default_rng(len(name))
    rows: list[tuple[str, str, str, float, float]] = []
    for host in range(4):
        now = 100.0
        while now < 104:
            prompt = own.random() < 0.3
            length = own.uniform(0.03, 0.11) if prompt else own.uniform(0.012, 0.02)
            label = f"prefill {own.integers(64, 900)} tokens" if prompt else f"decode {own.integers(8, 40)} requests"
            rows.append((f"replica {host}", "", label, now, now + length))
            now += length + (own.exponential(0.1) if own.random() < 0.03 else 0)
    return pl.DataFrame(rows, schema=["host", "lane", "label", "start", "end"], orient="row")


def study(
    folder: Path, policies: tuple[str, ...] = NAMES, seeds: int = 2, jobs: int = 300, *, series: bool = True, spans: bool = True, bounds: bool = True,
    failures: tuple[tuple[str, str], ...] = (), skipped: tuple[tuple[str, str], ...] = (),
) -> Study:  # fmt: skip
    """A study of ``policies`` on ``seeds`` seeds of ``jobs`` requests each."""
    outcomes, summary, over_time, bars = [], [], [], []
    for place, name in enumerate(policies):
        slowness = SLOWNESS[place % len(SLOWNESS)]
        for seed in range(seeds):
            made = _jobs(name, seed, slowness, jobs)
            tag = [pl.lit(name).alias("policy"), pl.lit(seed).alias("seed")]
            outcomes.append(pl.DataFrame(made).with_columns(tag))
            summary.append(pl.DataFrame([_summary(made)]).with_columns(tag))
            over_time.append(_series(slowness, seed, name, float(made["arrival"][-1])).with_columns(tag))
            if seed == 0:
                bars.append(_spans(name).with_columns(tag))
    best = min(float(frame["e2e_mean"][0]) for frame in summary)
    return Study(
        folder=folder,
        scenario={"world": "serving", "workload": {"generate": "chat"}, "policies": [{"name": name} for name in policies], "seeds": seeds},
        world="serving", measures=_measures(), objective="e2e_mean", policies=policies, seeds=tuple(range(seeds)),
        outcomes=pl.concat(outcomes), summary=pl.concat(summary),
        series=pl.concat(over_time) if series else pl.DataFrame(), spans=pl.concat(bars) if spans else pl.DataFrame(),
        bounds={"e2e_mean": 0.83 * best} if bounds else {}, knew=dict(zip(policies, KNEW * 9, strict=False)),
        notices=["54 requests are larger than the KV cache and were rejected"],
        describe=[
            ("workload", "chat, generated: 20 000 requests a seed, Poisson arrivals at 24 a second"),
            ("fleet", "4 x Llama-3-8B on A100-80G, tp 1, 30 208 KV blocks of 16 tokens"),
            ("timing", "roofline"),
        ],
        failures=list(failures), skipped=list(skipped),
        manifest={"rota": "0.1.0", "python": "3.11.9", "packages": {"numpy": "2.4.6", "polars": "2.1.0"}, "machine": "x86_64", "seconds": 41.2},
    )  # fmt: skip
