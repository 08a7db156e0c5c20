"""Numbers of a scenario with the limits beyond which they mean nothing here or cannot be carried out; endless ones and those that are none are refused.

The limits are far from what anybody measures; they are there so that a slip of the pen is one line and not a run without end. Where a draw may leave them
although what it is drawn from does not, `check_drawn` says so.
"""

from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError

TOKENS_MOST = (
    10_000_000  # of a prompt or an answer: the longest context that any model claims (Llama 4 Scout, Meta 2025)
)
CALLS_MOST = 10_000  # one after another in a program: what it has said so far, and so the work, grows with the square

MANY = 10_000_000  # requests or programs that are drawn, and what is remembered of them
Many = Annotated[int, msgspec.Meta(ge=1, le=MANY)]
Few = Annotated[int, msgspec.Meta(ge=1, le=10_000)]  # replicas, calls beside each other, kinds of tools
Latency = Annotated[float, msgspec.Meta(ge=0, le=1e9)]  # seconds, up to 32 years
MOMENT = 1e-3  # seconds between two questions to a policy: more often is more than any control loop does
Duration = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Uptime = Annotated[float, msgspec.Meta(ge=1, le=1e9)]  # seconds between failures: below 1 s no answer is ever finished
Rate = Annotated[float, msgspec.Meta(ge=1e-9, le=1e9)]  # a second: one in 32 years, one a nanosecond
Tokens = Annotated[float, msgspec.Meta(gt=0, le=TOKENS_MOST)]  # median of a lognormal
Calls = Annotated[
    float, msgspec.Meta(gt=0, le=1000)
]  # median or mean of a draw, so that few of them exceed `CALLS_MOST`
Sigma = Annotated[float, msgspec.Meta(ge=0, le=5)]  # of a logarithm: at 5 one of 40 is 18,000 times the median
Spread = Annotated[
    float, msgspec.Meta(ge=1e-3, le=1e3)
]  # standard deviation / mean of gaps; gamma has shape 1e6 to 1e-6


def check_drawn(drawn: npt.NDArray[np.float64], most: int, what: str) -> None:
    """Raises InputError where a draw is above its limit; `what` names the settings that it is made from."""
    largest = float(drawn.max(initial=0.0))
    if largest > most:
        raise InputError(f"{what}: {largest:.3g} was drawn, and {most:,} is the most; choose a smaller median or sigma")
