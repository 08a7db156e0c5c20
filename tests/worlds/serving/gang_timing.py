"""A timing model for tests of replicas that go in step: it knows how many tokens all of them compute."""

import numpy as np

from rota.worlds.serving.timing.features import DECODES, GANG_TOKENS, PREFILL_TOKENS, WIDTH
from rota.worlds.serving.timing.model import Timing
from rota.worlds.serving.timing.pointer import compiler, float_array


@compiler.entry("float64(int64, int64)")
def entry(parameters: int, features: int) -> float:
    """A constant, and seconds for each token here and in the whole gang."""
    numbers, seen = float_array(parameters, 4), float_array(features, WIDTH)
    here = seen[PREFILL_TOKENS] + seen[DECODES]
    return float(numbers[1] + numbers[2] * here + numbers[3] * seen[GANG_TOKENS])


def gang_timing(constant: float = 0.011, here: float = 0.0013, gang: float = 0.0007) -> Timing:
    return Timing("gang test", __name__, np.array([0.0, constant, here, gang]))
