"""Layered prefill: prompts go through one group of layers an iteration, decodes through all of them.

See `rota.worlds.serving.policies.layered_prefill`.
"""

from rota.kernel.compile import call_timing, floats_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.inside import GROUP, GROUPS, LAYER_TOKENS, LAYERS, inside
from rota.worlds.serving.kernels.layout import (
    A_FEATURES,
    BATCHED_TOKENS,
    F_DECODES,
    F_SAMPLES,
    FEATURES,
    HOSTS,
    PREFILL_CONTEXT,
    PREFILL_PAIRS,
    PREFILL_REQUESTS,
    PREFILL_SQUARES,
    PREFILL_TOKENS,
    TIMING_ENTRY,
    TIMING_PARAMETERS,
    host_ints,
    whole_state,
)


@compiler.entry("float64(int64, int64)")
def time_entry(address, r):
    """Seconds of an iteration: the layers of one group have prompts and decodes, the others decodes alone.

    All layers are alike, so with G groups this is 1/G of an iteration with both and (G - 1)/G of one with decodes.
    """
    state = whole_state(address)
    host, own = host_ints(state)[r], inside(state, r)
    features = state[A_FEATURES] + 8 * FEATURES * r
    f = floats_at(state[A_FEATURES], state[HOSTS], FEATURES)[r]
    entry, parameters = host[TIMING_ENTRY], host[TIMING_PARAMETERS]
    tokens = int(f[PREFILL_TOKENS])
    if tokens == 0:
        own[GROUP], own[GROUPS] = 0, 1
        return call_timing(entry, parameters, features)
    if own[GROUP] == 0:
        own[GROUPS] = max(1, min((tokens + own[LAYER_TOKENS] - 1) // own[LAYER_TOKENS], own[LAYERS]))
    else:
        host[BATCHED_TOKENS] -= tokens  # they count once
    groups = own[GROUPS]
    if own[GROUP] + 1 < groups:
        f[F_SAMPLES] = f[F_DECODES]  # the prompts give their tokens after the last group
    both = call_timing(entry, parameters, features)
    if groups == 1:
        return both
    kept = (f[PREFILL_REQUESTS], f[PREFILL_CONTEXT], f[PREFILL_SQUARES], f[PREFILL_PAIRS], f[F_SAMPLES])
    f[PREFILL_TOKENS] = f[PREFILL_REQUESTS] = f[PREFILL_CONTEXT] = f[PREFILL_SQUARES] = f[PREFILL_PAIRS] = 0.0
    f[F_SAMPLES] = f[F_DECODES]
    alone = call_timing(entry, parameters, features) if f[F_DECODES] > 0.0 else 0.0
    f[PREFILL_TOKENS] = float(tokens)
    f[PREFILL_REQUESTS], f[PREFILL_CONTEXT], f[PREFILL_SQUARES], f[PREFILL_PAIRS], f[F_SAMPLES] = kept
    return both / groups + alone * (groups - 1) / groups


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def layer_entry(address, r, _, __, ___):
    """A group of layers is done. Returns whether it was the last."""
    own = inside(whole_state(address), r)
    own[GROUP] += 1
    if own[GROUP] < own[GROUPS]:
        return 0
    own[GROUP] = 0
    return 1
