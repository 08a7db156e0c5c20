"""A roofline whose experts are chosen unevenly, and may be shared by several replicas.

How many distinct experts a batch of T tokens reads, a layer, from the loads that a trace of routing counts: expert e is one of a token's k choices
with probability p_e = min(1, k load_e / sum of loads), so that sum over e of 1 - (1 - p_e)^T are expected. Even loads give E (1 - (1 - k/E)^T), which
the plain roofline has. Uneven loads touch fewer experts, so less is read.

``parallel: N``: N replicas attend to their own requests (data-parallel attention) and hold E/N experts each, in the order of their numbers. They go
in step. The experts see the tokens of all replicas, and a layer waits for the replica whose experts are chosen most: with s the largest share of the
choices that one replica's experts get, it computes s T k of them, N s times the even share, and reads the experts touched there. In each such layer
tokens go to the replicas of their experts and come back (all-to-all, twice): with k choices spread evenly a token goes to (N - 1) (1 - (1 - 1/N)^k)
other replicas, hidden x 2 bytes each way, over the link at the rate that the roofline has for an all-reduce, and a latency each time.

Approximated: choices of a token are independent; loads are the same at all times; both are means over the rows of the trace (layers, tasks). The all-
to-all is not overlapped with anything. KV blocks are counted as if a replica held all experts: give ``kv_blocks`` where it does not.

``{roofline: {experts: {load: FILE}}}``: a CSV file with columns e0, e1, ... and a row for each layer. ``{experts: {skew: 1.0}}``: loads in proportion
to 1 / rank^skew, dealt out to the replicas in turn. ``parallel: N`` beside either, or alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError, nearest
from rota.worlds.serving.catalogue import Gpu, Model
from rota.worlds.serving.timing import roofline
from rota.worlds.serving.timing.features import DECODES, GANG_TOKENS, PREFILL_TOKENS, WIDTH
from rota.worlds.serving.timing.files import content
from rota.worlds.serving.timing.model import Timing
from rota.worlds.serving.timing.pointer import compiler, float_array

Array = npt.NDArray[np.float64]

OCTAVES, STEPS = 18, 8  # the table of touched experts: tokens from 1 to 2^18, eight an octave
POINTS = OCTAVES * STEPS + 1

# Head of `parameters`, then the table, then the parameters of the roofline.
(_RANKS, _BUSIEST, _TOKEN, _LATENCY) = range(1, 5)  # replicas; N s; seconds of all-to-alls a token, and besides
_OWN = 5
_ROOFLINE = _OWN + POINTS


@compiler.inner
def touched(table: Any, tokens: float) -> float:
    """Experts that so many tokens touch on the busiest replica: linear between the points of the table."""
    if tokens <= 1.0:
        return float(table[0] * tokens)
    at = min(np.log2(tokens) * STEPS, POINTS - 1.000001)
    cell = int(at)
    low, high = 2.0 ** (cell / STEPS), 2.0 ** ((cell + 1) / STEPS)
    share = min((tokens - low) / (high - low), 1.0)
    return float(table[cell] + share * (table[cell + 1] - table[cell]))


@compiler.entry("float64(int64, int64)")
def entry(parameters: int, features: int) -> float:
    """Seconds of an iteration of one of the replicas."""
    own, seen = float_array(parameters, _OWN), float_array(features, WIDTH)
    tokens = seen[PREFILL_TOKENS] + seen[DECODES]
    if tokens == 0.0:
        return 0.0
    together = max(tokens, seen[GANG_TOKENS])
    active = touched(float_array(parameters + 8 * _OWN, POINTS), together)
    chosen = together * own[_BUSIEST] / own[_RANKS]
    seconds = roofline.iteration_seconds(parameters + 8 * _ROOFLINE, features, active, chosen)
    return float(seconds + own[_TOKEN] * tokens + own[_LATENCY])


def build(model: Model, gpu: Gpu, tp: int, options: Mapping[str, Any], folder: Path) -> Timing:
    """The roofline with these experts. Options: those of the roofline, and `experts`.

    Raises:
        InputError: a model without experts, an unknown key, loads of another number of experts, experts that cannot be dealt out evenly.
    """
    where, given = "timing.roofline.experts", options["experts"]
    loads, ranks, source = _checked(where, given, model, folder)
    plain = roofline.build(model, gpu, tp, {key: value for key, value in options.items() if key != "experts"})
    shares = (loads / loads.sum(axis=1, keepdims=True)).reshape(len(loads), ranks, -1)
    busiest = float(ranks * shares.sum(axis=2).max(axis=1).mean())
    token, latency = _all_to_all(model, gpu, tp, ranks, roofline.factors(gpu, _factors(options)))
    own = np.array([0.0, ranks, busiest, token, latency])
    parameters = np.concatenate([own, _table(shares, model.experts_per_token), plain.parameters])
    return Timing("roofline", __name__, parameters, source=f"{plain.source}, {source}", ranks=ranks)


def _factors(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "experts"}


def _checked(where: str, given: Any, model: Model, folder: Path) -> tuple[Array, int, str]:
    """Loads, a row a layer; replicas that share the experts; in words where the loads are from."""
    known = ("load", "skew", "parallel")
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: must be a mapping such as {{skew: 1.0}}, found {given!r}")
    for key in given:
        if key not in known:
            raise InputError(f"{where}: unknown key '{key}'{nearest(str(key), known)}")
    if not model.moe_layers:
        raise InputError(f"{where}: {model.name} has no experts; leave it out")
    ranks = given.get("parallel", 1)
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1 or model.experts % ranks:
        raise InputError(
            f"{where}.parallel: must be a whole number that divides the {model.experts} experts of {model.name}, found {ranks!r}"
        )
    if "load" in given and "skew" in given:
        raise InputError(f"{where}: give load or skew, not both")
    if "load" in given:
        loads = _read(folder / Path(str(given["load"])).expanduser(), model)
        return loads, ranks, f"loads of experts from {Path(str(given['load'])).name}"
    skew = given.get("skew", 0.0)
    if isinstance(skew, bool) or not isinstance(skew, int | float) or not 0.0 <= skew < np.inf:
        raise InputError(f"{where}.skew: must be a finite number >= 0, found {skew!r}")
    ranked = (np.arange(model.experts) + 1.0) ** -float(skew)
    dealt = ranked.reshape(-1, ranks).T.reshape(1, -1)  # one of each group of `ranks` to every replica
    return np.asarray(dealt, np.float64), ranks, f"loads of experts by rank^-{skew:g}"


def _read(path: Path, model: Model) -> Array:
    lines = content(path).decode(errors="replace").splitlines()
    names = lines[0].split(",") if lines else []
    wanted = [f"e{number}" for number in range(model.experts)]
    columns = [name for name in names if name[:1] == "e" and name[1:].isdigit()]
    if sorted(columns) != sorted(wanted):
        raise InputError(
            f"{path}: needs a column for each of the {model.experts} experts of {model.name}, e0 to e{model.experts - 1}; found {len(columns)}"
        )
    at = [names.index(name) for name in wanted]
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split(",")
        try:
            row = [float(cells[k]) for k in at]
        except (ValueError, IndexError):
            raise InputError(f"{path}, line {number}: a load is no number, or is missing") from None
        if min(row) < 0 or not 0 < sum(row) < np.inf:
            raise InputError(f"{path}, line {number}: loads must be finite, at least 0, and not all 0")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: has no rows; it needs one for each layer")
    return np.array(rows)


def _table(shares: Array, per_token: int) -> Array:
    """Experts touched on the replica that has most of them touched, for 1 to 2^18 tokens, mean over the rows. `shares`: rows, replicas, experts."""
    chosen = np.minimum(1.0, per_token * shares)
    tokens = 2.0 ** (np.arange(POINTS) / STEPS)
    with np.errstate(divide="ignore"):  # an expert that every token chooses: log 0
        never = np.log1p(-chosen)
    return np.array([(-np.expm1(count * never)).sum(axis=2).max(axis=1).mean() for count in tokens])


def _all_to_all(model: Model, gpu: Gpu, tp: int, ranks: int, chosen: roofline.Factors) -> tuple[float, float]:
    """Seconds of sending a token to its experts and back in all layers, and of each iteration besides."""
    if ranks == 1:
        return 0.0, 0.0
    others = (ranks - 1) * (1.0 - (1.0 - 1.0 / ranks) ** model.experts_per_token)
    rate = gpu.collective_bandwidth or gpu.link * chosen.link
    return 2 * model.moe_layers * others * model.hidden * 2.0 / tp / rate, 2 * model.moe_layers * chosen.link_latency
