"""Compiled functions, cached on disk under the hash of every source they are made of.

Numba's own cache looks at one file only: a changed helper in another module would go unnoticed. So the cache folder
carries a hash of all kernel sources of a world.
"""

import tempfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj


def cache_folder(*sources: Path) -> str:
    """A cache folder for the functions made from all Python files under `sources`."""
    digest = blake2b(f"{numba.__version__} {np.__version__}".encode(), digest_size=8)
    for folder in (*sources, Path(__file__)):
        for file in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
            digest.update(file.read_bytes())
    base = Path.home() / ".cache" / "rota"
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError:
        base = Path(tempfile.gettempdir()) / "rota-cache"
    return str(base / f"compiled-{digest.hexdigest()}")


_INNER = {"cache": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


class Compiler:
    """Decorators for one world's kernels; everything they compile shares one cache folder."""

    def __init__(self, *sources: Path) -> None:
        self.folder = cache_folder(*sources)

    def _decorate(self, decorate: Callable[[Any], Any], function: Any) -> Any:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = self.folder  # read by numba when a function is decorated, not later
        try:
            return decorate(function)
        finally:
            numba.config.CACHE_DIR = before

    def njit(self, function: Any) -> Any:
        """`numba.njit` with this world's cache, without the GIL. Floating point keeps its order of additions (no fast math)."""
        return self._decorate(numba.njit(cache=True, boundscheck=False, error_model="numpy", nogil=True), function)

    def inner(self, function: Any) -> Any:
        """The same for functions that only other compiled functions call: without wrappers for Python they compile faster."""
        return self._decorate(numba.njit(**_INNER), function)

    def inlined(self, function: Any) -> Any:
        """The same for the few lines of the innermost loops: always a part of their caller, which the compiler does not see by itself."""
        return self._decorate(numba.njit(**_INNER, forceinline=True), function)

    def entry(self, signature: str) -> Callable[[Any], Any]:
        """`numba.cfunc`: a function that other kernels call through its address."""
        return lambda function: self._decorate(numba.cfunc(signature, cache=True, error_model="numpy"), function)


@intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """An integer address as a pointer, for `numba.carray`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@intrinsic
def bits_of(typing_context: Any, number: Any) -> Any:
    """The 64 bits of a float64 as an int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


def _array_at(dtype: Any) -> Any:
    """An intrinsic that makes a (columns, rows) C-contiguous array of the memory at an address.

    Unlike `numba.carray` it is not compiled again for every constant that it is called with.
    """
    kind = types.Array(dtype, 2, "C")

    def array_at(typing_context: Any, address: Any, columns: Any, rows: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = arrayobj.make_array(kind)(context, builder)
            size = context.get_constant(types.intp, dtype.bitwidth // 8)
            start, height, width = arguments
            arrayobj.populate_array(
                array,
                data=builder.inttoptr(start, array.data.type),
                shape=[height, width],
                strides=[builder.mul(width, size), size],
                itemsize=size,
                meminfo=None,
            )
            return array._getvalue()

        return kind(types.int64, types.int64, types.int64), generate

    return intrinsic(array_at)


ints_at = _array_at(types.int64)
small_ints_at = _array_at(types.int32)  # half the memory, where many numbers are kept
floats_at = _array_at(types.float64)


@intrinsic
def call_timing(typing_context: Any, function: Any, parameters: Any, features: Any) -> Any:
    """Call ``float64 function(int64, int64)`` through its address: what was not used is never compiled."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.DoubleType(), [word, word])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1], arguments[2]])

    return types.float64(types.int64, types.int64, types.int64), generate


@intrinsic
def call_entry(typing_context: Any, function: Any, state: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Call ``int64 function(int64 state, int64, int64, int64, int64)`` through its address.

    A border for the compiler: what lies behind it is compiled once, and only when used, instead of again in every caller.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word] * 5)
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

    word = types.int64
    return word(word, word, word, word, word, word), generate
