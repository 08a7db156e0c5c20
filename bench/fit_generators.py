"""Fit the figures of `rota.worlds.serving.generate` to real traces and print them.

    python bench/fit_generators.py DATA/traces

DATA/traces holds azure2023/ (Azure public dataset, CC-BY 4.0), vidur_lengths/ (arXiv summarisation and ShareGPT
lengths, from microsoft/vidur) and mooncake/ (Mooncake conversation trace). Run by hand; the printed figures are typed
into the generator.
"""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.special import ndtr, ndtri
from scipy.stats import ks_2samp, spearmanr

from rota.worlds.serving.generate import KINDS, generate
from rota.worlds.serving.model import Workload
from rota.worlds.serving.read import read_trace

WINDOWS = np.array([1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0])  # seconds over which arrivals are counted


def knots(
    tokens: npt.NDArray[np.int64], rng: np.random.Generator, tolerance: float = 0.008
) -> list[tuple[float, float]]:
    """(normal score, quantile) pairs between which the quantile function is close to log-linear.

    Counts are spread evenly over [x - 0.5, x + 0.5), so that rounding undoes it. Knots are added where the
    distribution function is furthest off, until it is nowhere more than `tolerance` off.
    """
    values = np.log(np.maximum(np.sort(tokens + rng.uniform(-0.5, 0.5, len(tokens))), 0.5))
    chance = (np.arange(len(values)) + 0.5) / len(values)
    scores = ndtri(chance)
    at = set(np.searchsorted(scores, [-3.5, -3, -2.5, -2, -1, 0, 1, 2, 2.5, 3, 3.5]).clip(0, len(values) - 1).tolist())
    while True:
        chosen = sorted(at)
        off = np.abs(ndtr(np.interp(values, values[chosen], scores[chosen])) - chance)
        worst = int(off.argmax())
        if off[worst] < tolerance or worst in at:
            return [(round(float(scores[k]), 3), round(float(np.exp(values[k])), 1)) for k in chosen]
        at.add(worst)


def correlation(workload: Workload) -> float:
    """Gaussian copula parameter from Spearman's rank correlation: r = 2 sin(pi rho / 6) (Pearson 1907)."""
    return float(2 * np.sin(np.pi / 6 * spearmanr(workload.prompt_tokens, workload.output_tokens)[0]))


def dispersion(arrival: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Index of dispersion of counts (variance / mean) for each of WINDOWS."""
    counts = [np.histogram(arrival, np.arange(0, arrival[-1], window))[0] for window in WINDOWS]
    return np.array([count.var() / count.mean() for count in counts])


def modulation(arrival: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Rate variation (cv, seconds) of a Poisson process whose rate has an exponential autocovariance.

    Its dispersion is 1 + 2 m cv^2 s (1 - (s / t) (1 - exp(-t / s))) with mean rate m and correlation time s (Cox and
    Isham 1980).
    """
    mean, seen = len(arrival) / arrival[-1], dispersion(arrival)

    def misfit(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        cv, seconds = np.exp(x)
        ratio = WINDOWS / seconds
        return np.log(1 + 2 * mean * cv**2 * seconds * (1 + np.expm1(-ratio) / ratio)) - np.log(seen)

    cv, seconds = np.exp(least_squares(misfit, np.log([1.0, 10.0])).x)
    return float(cv), float(seconds)


def turns(workload: Workload) -> dict[str, npt.NDArray[np.float64]]:
    """Find the conversations of a trace: a request continues the one whose blocks, all but the last, it starts with.

    Returns turns a session, seconds between turns, and tokens that a follow-up adds to prompt and answer before it.
    """
    assert workload.prefix is not None
    offsets, ids = workload.prefix.offsets.tolist(), workload.prefix.ids.tolist()
    owner: dict[int, int] = {}
    session, gaps, added = np.arange(len(workload)), [], []
    for row in range(len(workload)):
        blocks = ids[offsets[row] : offsets[row + 1]]
        shared = next((len(blocks) - k for k, each in enumerate(reversed(blocks)) if each in owner), 0)
        before = owner[blocks[shared - 1]] if shared else -1
        if shared >= 2 and shared >= offsets[before + 1] - offsets[before] - 1:
            session[row] = session[before]
            gaps.append(workload.arrival[row] - workload.arrival[before])
            added.append(workload.prompt_tokens[row] - workload.prompt_tokens[before] - workload.output_tokens[before])
        owner.update(dict.fromkeys(blocks, row))
    return {"turns": np.unique(session, return_counts=True)[1], "gaps": np.array(gaps), "added": np.array(added)}


def show(name: str, values: npt.ArrayLike, digits: int = 1) -> None:
    print(f"    {name}=({', '.join(f'{value:.{digits}f}' for value in np.asarray(values))}),")


def main(data: Path) -> None:
    rng = np.random.default_rng(1)
    sources = {
        "chat": "azure2023/AzureLLMInferenceTrace_conv.csv.gz",
        "code": "azure2023/AzureLLMInferenceTrace_code.csv.gz",
        "summarise": "vidur_lengths/arxiv_summarization_lengths.csv.gz",
        "burst": "vidur_lengths/sharegpt_val_10k_lengths.csv.gz",
    }
    for kind, path in sources.items():
        trace = read_trace(data / path)
        print(f"{kind}: {path}, {len(trace)} requests")
        print(f"    prompt={knots(trace.prompt_tokens, rng)},")
        print(f"    output={knots(trace.output_tokens, rng)},")
        print(f"    correlation={correlation(trace):.3f},")
        if trace.arrival[-1] > 0:
            cv, seconds = modulation(trace.arrival)
            print(f"    rate={len(trace) / trace.arrival[-1]:.2f}, variation=({cv:.2f}, {seconds:.1f}),")
        if kind in KINDS:
            made = generate({"kind": kind, "requests": len(trace)}, rng)
            for column in ("prompt_tokens", "output_tokens"):
                print(f"    KS {column}: {ks_2samp(getattr(trace, column), getattr(made, column)).statistic:.4f}")
            if trace.arrival[-1] > 0:
                show("windows", WINDOWS, 0)
                show("dispersion, trace", dispersion(trace.arrival))
                runs = [generate({"kind": kind, "requests": len(trace)}, rng).arrival for _ in range(20)]
                show("dispersion, generated", np.mean([dispersion(run) for run in runs], axis=0))
                show(
                    "cv of gaps, trace and generated",
                    [cv_of_gaps(trace.arrival), np.mean([cv_of_gaps(run) for run in runs])],
                    2,
                )
    found = turns(read_trace(data / "mooncake/conversation_trace.jsonl.gz"))
    logs = np.log(found["gaps"][found["gaps"] > 0])
    print(f"sessions: turns mean {found['turns'].mean():.3f}, P(1) {np.mean(found['turns'] == 1):.3f}")
    print(f"    turns beyond the first two, mean {np.mean(found['turns'][found['turns'] > 1]) - 2:.3f}")
    print(
        f"    gap median {np.median(found['gaps']):.1f} s, "
        f"sigma of log {np.diff(np.quantile(logs, [0.1, 0.9]))[0] / 2.5631:.3f}"
    )
    print(f"    follow-ups shorter than their history: {np.mean(found['added'] < 1):.3f}")
    print(f"    added={knots(found['added'][found['added'] >= 1].astype(np.int64), rng)},")


def cv_of_gaps(arrival: npt.NDArray[np.float64]) -> float:
    gaps = np.diff(arrival)
    return float(gaps.std() / gaps.mean())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
