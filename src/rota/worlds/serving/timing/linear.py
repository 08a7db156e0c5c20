"""A sum of coefficients times features: a + b * prefill_tokens + c * decodes + d * decode_context + ...

The form of DistServe's profiles (Zhong et al., OSDI 2024) and of many predictors in routers. `rota fit-timing` fits
the coefficients from measured iterations. ``{linear: {constant: 0.008, prefill_tokens: 9.0e-5, decodes: 5.0e-5,
decode_context: 4.0e-8}}``; names are those of `features.NAMES`, seconds for each unit; what is not named is 0.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rota.kernel.errors import InputError, nearest
from rota.worlds.serving.timing.features import DECODES, FEATURES, NAMES, PREFILL_TOKENS
from rota.worlds.serving.timing.model import Timing
from rota.worlds.serving.timing.pointer import compiler, float_array

CONSTANT = "constant"
_SIZE = 2 + FEATURES  # counter, constant, a coefficient for each feature


@compiler.entry("float64(int64, int64)")
def entry(parameters: int, features: int) -> float:
    """Seconds of an iteration; an empty one takes none."""
    coefficients = float_array(parameters, _SIZE)
    seen = float_array(features, FEATURES)
    if seen[PREFILL_TOKENS] + seen[DECODES] == 0.0:
        return 0.0
    total = coefficients[1]
    for index in range(FEATURES):
        total += coefficients[2 + index] * seen[index]
    return float(total)


def build(coefficients: Mapping[str, Any]) -> Timing:
    """A linear timing model.

    Args:
        coefficients: seconds for each unit of a feature, and ``constant``.

    Raises:
        InputError: unknown name, not a finite number, or nothing above 0.
    """
    parameters = np.zeros(_SIZE)
    names = (CONSTANT, *NAMES)
    for name, value in coefficients.items():
        if name not in names:
            raise InputError(f"timing.linear: unknown coefficient '{name}'{nearest(str(name), names)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise InputError(f"timing.linear.{name}: must be a number of seconds, found {value!r}")
        parameters[1 + names.index(name)] = value
    if parameters.max() <= 0:
        raise InputError(
            "timing.linear: give at least one coefficient above 0, for example {constant: 0.01, prefill_tokens: 1.0e-4}"
        )
    if parameters.min() < 0:
        raise InputError("timing.linear: coefficients must not be negative, a duration would be")
    return Timing("linear", __name__, parameters, source="linear coefficients of the scenario")
