"""How far the roofline is from silicon, and how its factors were found.

    python bench/roofline_accuracy.py [--data FOLDER] [--fit]

Each source is split in two halves by a keyed draw. ``--fit`` fits the factors on the first half (least mean absolute
logarithmic error) and prints them; the table shows the error of the factors in the code on the second half, which no
fit has seen. Sources: AIConfigurator operator tables, LLMServingSim layer profiles, Splitwise's end-to-end
measurements.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.streams import uniform
from rota.worlds.serving.catalogue import Gpu, Model, gpu, model
from rota.worlds.serving.timing import roofline
from rota.worlds.serving.timing.features import iteration
from rota.worlds.serving.timing.files import read
from rota.worlds.serving.timing.roofline import FACTORS, Factors

Array = npt.NDArray[np.float64]
AICONFIGURATOR = {"a100-80g": "a100_sxm_vllm0.14.0", "h100": "h100_sxm_vllm0.19.0", "h200": "h200_sxm_vllm0.19.0"}
LLMSERVINGSIM = {
    "rtx-4090": ("RTX4090/Llama-3.1-8B/tp1", "llama-3.1-8b"),
    "rtx-pro-6000": ("RTXPRO6000/Llama-3.1-8B/tp1", "llama-3.1-8b"),
}
SPLITWISE = {"a100-80g": "a100-80gb", "h100": "h100-80gb"}
IMPOSSIBLE = {("context attention", "h200")}  # the table beats the data sheet up to a hundredfold
FITTED = {  # which factors a kind of row decides
    "gemm": ("gemm_compute", "gemm_memory", "gemm_launch"),
    "context attention": ("prefill_compute", "prefill_memory", "prefill_launch", "prefill_sequence"),
    "generation attention": ("decode_compute", "decode_memory", "decode_launch", "decode_sequence"),
    "all-reduce": ("link", "link_latency"),
    "prompt and token times": (
        "gemm_compute",
        "gemm_memory",
        "prefill_compute",
        "elementwise_launch",
        "link_latency",
        "host_seconds",
    ),
}


@dataclass(frozen=True)
class Rows:
    """Measurements of one kind on one GPU."""

    source: str
    kind: str
    gpu: Gpu
    columns: dict[str, Array]
    seconds: Array

    @property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """The half that no fit sees."""
        return np.asarray(
            uniform(1, f"roofline/{self.source}/{self.kind}/{self.gpu.name}", np.arange(len(self.seconds))) < 0.5
        )


def aiconfigurator(data: Path) -> Iterator[Rows]:
    """Operator tables in bf16: products, attention without sliding window, vLLM's custom all-reduce in CUDA graphs."""
    for name, prefix in AICONFIGURATOR.items():
        board, folder = gpu(name), data / "traces" / "aiconfigurator"
        table = read(folder / f"{prefix}_gemm_perf.csv.gz", ("m", "n", "k", "latency"), ("gemm_dtype",))
        yield _rows("AIConfigurator", "gemm", board, table, table.pop("gemm_dtype") == "bfloat16")
        for kind in ("context", "generation"):
            numbers = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "latency")
            table = read(
                folder / f"{prefix}_{kind}_attention_perf.csv.gz",
                numbers,
                ("kv_cache_dtype",),
                optional=("window_size",),
            )
            keep = (table.pop("kv_cache_dtype") == "bfloat16") & (table.get("window_size", 0 * table["isl"]) == 0)
            if (f"{kind} attention", name) not in IMPOSSIBLE:
                yield _rows("AIConfigurator", f"{kind} attention", board, table, keep)
        table = read(
            folder / f"{prefix}_custom_allreduce_perf.csv.gz", ("num_gpus", "message_size", "latency"), ("backend",)
        )
        yield _rows("AIConfigurator", "all-reduce", board, table, table.pop("backend") == "vllm_graph")


def llmservingsim(data: Path) -> Iterator[Rows]:
    """Layer profiles: projections, LM head, attention of prefills alone and of decodes alone."""
    for name, (place, served) in LLMSERVINGSIM.items():
        board, card, folder = gpu(name), model(served), data / "traces" / "llmservingsim" / "perf" / place
        heads, keys = card.heads * card.head_dim, 2 * card.kv_heads * card.head_dim
        shapes = {
            "qkv_proj": (heads + keys, card.hidden),
            "o_proj": (card.hidden, heads),
            "gate_up_proj": (2 * card.intermediate, card.hidden),
            "down_proj": (card.hidden, card.intermediate),
            "lm_head": (card.vocabulary, card.hidden),
        }
        parts = []
        for file, key in (("dense", "tokens"), ("per_sequence", "sequences")):
            table = read(folder / f"{file}.csv.gz", (key, "time_us"), ("layer",))
            for layer, (n, k) in shapes.items():
                mine = table["layer"] == layer
                parts.append(
                    np.array(
                        [
                            table[key][mine],
                            np.full(mine.sum(), n),
                            np.full(mine.sum(), k),
                            table["time_us"][mine] * 1e-3,
                        ]
                    )
                )
        m, n, k, latency = np.concatenate(parts, axis=1)
        yield _rows("LLMServingSim", "gemm", board, {"m": m, "n": n, "k": k, "latency": latency}, m > 0)
        table = read(folder / "attention.csv.gz", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"))
        chunk, decodes = table["prefill_chunk"], table["n_decode"]
        common = {
            "num_heads": 0 * chunk + card.heads,
            "num_key_value_heads": 0 * chunk + card.kv_heads,
            "head_dim": 0 * chunk + card.head_dim,
        }
        common["latency"] = table["time_us"] * 1e-3
        alone = {"batch_size": np.ones_like(chunk), "isl": chunk, "step": table["kv_prefill"], **common}
        yield _rows("LLMServingSim", "context attention", board, alone, decodes == 0)
        alone = {"batch_size": decodes, "isl": np.ones_like(chunk), "step": table["kv_decode"], **common}
        yield _rows("LLMServingSim", "generation attention", board, alone, chunk == 0)


def splitwise(data: Path) -> Iterator[Rows]:
    """Whole prompts and tokens of Llama-2-70B, tensor parallel 2, 4 and 8."""
    numbers = ("prompt_size", "batch_size", "token_size", "prompt_time", "token_time", "tensor_parallel")
    table = read(data / "traces" / "splitwise" / "perf_model.csv.gz", numbers, ("model", "hardware"))
    for name, hardware in SPLITWISE.items():
        keep = (table["model"] == "llama2-70b") & (table["hardware"] == hardware)
        mine = {column: table[column][keep] for column in numbers}
        both = {column: np.concatenate([values, values]) for column, values in mine.items()}
        both["prompt"] = np.repeat([1.0, 0.0], keep.sum())
        both["latency"] = np.concatenate([mine["prompt_time"], mine["token_time"]])
        yield _rows("Splitwise", "prompt and token times", gpu(name), both, both["latency"] > 0)


def _rows(source: str, kind: str, board: Gpu, columns: dict[str, Any], keep: npt.NDArray[np.bool_]) -> Rows:
    kept = {name: values[keep] for name, values in columns.items()}
    return Rows(source, kind, board, kept, kept.pop("latency") * 1e-3)


def predict(rows: Rows, chosen: Factors) -> Array:
    """Seconds of each row."""
    return {"gemm": _gemm, "all-reduce": _all_reduce, "prompt and token times": _whole}.get(rows.kind, _attention)(
        rows, chosen
    )


def _gemm(rows: Rows, chosen: Factors) -> Array:
    m, n, k = (rows.columns[name] for name in "mnk")
    compute = 2 * m * n * k / (rows.gpu.bf16 * chosen.gemm_compute)
    memory = 2 * (n * k + m * k + m * n) / (rows.gpu.bandwidth * chosen.gemm_memory)
    return np.asarray(np.hypot(compute, memory) + chosen.gemm_launch)


def _attention(rows: Rows, chosen: Factors) -> Array:
    names = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim")
    batch, new, context, heads, keys, width = (rows.columns[name] for name in names)
    stage = "prefill" if rows.kind.startswith("context") else "decode"
    share, memory_share, launch, sequence = (
        getattr(chosen, f"{stage}_{part}") for part in ("compute", "memory", "launch", "sequence")
    )
    compute = 4 * heads * width * batch * new * (context + (new + 1) / 2) / (rows.gpu.bf16 * share)
    memory = (
        2
        * (2 * batch * new * heads * width + 2 * batch * (context + new) * keys * width)
        / (rows.gpu.bandwidth * memory_share)
    )
    return np.asarray(np.hypot(compute, memory) + launch + sequence * batch * keys)


def _all_reduce(rows: Rows, chosen: Factors) -> Array:
    count, elements = rows.columns["num_gpus"], rows.columns["message_size"]
    return np.asarray(2 * (count - 1) / count * 2 * elements / (rows.gpu.link * chosen.link) + chosen.link_latency)


def _whole(rows: Rows, chosen: Factors) -> Array:
    """Iterations through the compiled entry, as a simulation sees them."""
    options = {field.name: getattr(chosen, field.name) for field in fields(Factors)}
    timings = {tp: roofline.build(_llama(), rows.gpu, tp, options) for tp in (2, 4, 8)}
    done: dict[tuple[int, ...], float] = {}
    names = ("prompt", "tensor_parallel", "batch_size", "prompt_size", "token_size")
    keys = [tuple(int(value) for value in row) for row in np.column_stack([rows.columns[name] for name in names])]
    for key in set(keys):
        prompt, tp, batch, size, output = key
        seen = iteration([(0, size)] * batch) if prompt else iteration((), [size + output // 2] * batch)
        done[key] = timings[tp].seconds(seen)
    return np.array([done[key] for key in keys])


def _llama() -> Model:
    return model("llama-2-70b")


def fit(tables: list[Rows], start: Factors) -> Factors:
    """The factors that one kind of rows decides, from the halves that are not held out."""
    from scipy.optimize import minimize

    names = FITTED[tables[0].kind]
    first = np.log([max(getattr(start, name), 1e-9) for name in names])
    shares = np.array([not name.endswith(("_launch", "_sequence", "_latency", "_seconds")) for name in names])

    def factors_at(point: Array) -> Factors:
        values = np.exp(np.where(shares, np.minimum(point, 0.0), point))
        return replace(start, **dict(zip(names, map(float, values), strict=True)))

    def loss(point: Array) -> float:
        chosen = factors_at(point)
        return float(
            np.mean([np.abs(np.log(predict(rows, chosen) / rows.seconds))[~rows.held_out].mean() for rows in tables])
        )

    simplex = first + np.vstack([np.zeros(len(names)), 0.5 * np.eye(len(names))])
    found = minimize(loss, first, method="Nelder-Mead", options={"maxiter": 1500, "initial_simplex": simplex})
    return factors_at(found.x)


def errors(rows: Rows, chosen: Factors) -> Array:
    """Absolute relative errors on the held-out half."""
    held = rows.held_out
    return np.asarray(np.abs(predict(rows, chosen)[held] / rows.seconds[held] - 1))


def default_factors(rows: Rows) -> Factors:
    """The factors in the code for these rows."""
    return roofline.factors(rows.gpu, {"stack": "eager-2023"} if rows.source == "Splitwise" else {})


SOURCES: tuple[Callable[[Path], Iterator[Rows]], ...] = (aiconfigurator, llmservingsim, splitwise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--fit", action="store_true", help="fit the factors again and print them")
    arguments = parser.parse_args()
    tables = [rows for source in SOURCES for rows in source(arguments.data)]
    print(f"{'source':15} {'kind':24} {'gpu':13} {'rows':>6} {'median error':>13} {'p90':>7}   (held-out half)")
    for rows in tables:
        error = errors(rows, default_factors(rows))
        print(
            f"{rows.source:15} {rows.kind:24} {rows.gpu.name:13} {len(error):6d} "
            f"{np.median(error):13.1%} {np.quantile(error, 0.9):7.1%}"
        )
    if arguments.fit:
        for key in dict.fromkeys((rows.source, rows.kind, rows.gpu.architecture) for rows in tables):
            group = [rows for rows in tables if (rows.source, rows.kind, rows.gpu.architecture) == key]
            found = fit(
                group, replace(FACTORS[key[2]], host_seconds=0.03) if key[0] == "Splitwise" else FACTORS[key[2]]
            )
            values = {name: float(f"{getattr(found, name):.3g}") for name in FITTED[key[1]]}
            print(*key, values, "held-out", [round(float(np.median(errors(rows, found))), 3) for rows in group])


if __name__ == "__main__":
    main()
