"""What a timing model is: numbers, and a compiled function that turns an iteration's features into seconds."""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

COUNTER = 0  # parameters[COUNTER] counts the evaluations outside the measured range


@dataclass(frozen=True, eq=False)
class Timing:
    """Seconds of an iteration from its features (see `features`).

    ``parameters`` holds everything the compiled entry needs: ``parameters[0]`` counts the evaluations that
    extrapolated, the rest is the business of ``module``. A `Timing` is plain data and can cross a process boundary;
    the entry is compiled when it is first used.
    """

    kind: str
    module: str  # import path of the module that holds `entry`
    parameters: npt.NDArray[np.float64] = field(repr=False)
    source: str = ""  # where the numbers come from, for the report
    notices: tuple[str, ...] = ()
    ranks: int = 1  # replicas that go in step, because they share experts

    @property
    def entry(self) -> Any:
        """The `numba.cfunc("float64(int64, int64)")` over (address of parameters, address of features)."""
        return import_module(self.module).entry

    @property
    def extrapolations(self) -> int:
        """How many evaluations were outside the measured range so far."""
        return int(self.parameters[COUNTER])

    def seconds(self, features: npt.NDArray[np.float64]) -> float:
        """Seconds of one iteration. For tests and tables; simulators call the entry's address."""
        vector = np.ascontiguousarray(features, dtype=np.float64)
        return float(self.entry.ctypes(self.parameters.ctypes.data, vector.ctypes.data))
