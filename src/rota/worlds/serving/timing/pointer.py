"""What compiled timing entries need: the compiler with their cache, and arrays from addresses."""

from pathlib import Path
from typing import Any

import numpy as np
from numba import carray

from rota.kernel.compile import Compiler, pointer

compiler = Compiler(Path(__file__).parent)


@compiler.inner
def float_array(address: int, size: int) -> Any:
    """The `size` float64 numbers at an address. The caller keeps the memory alive; nothing is checked."""
    return carray(pointer(address), (size,), np.float64)
