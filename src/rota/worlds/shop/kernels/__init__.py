"""Compiled inner loops of the shop world: arrays in, arrays out."""

from pathlib import Path

from rota.kernel.compile import Compiler

compiler = Compiler(Path(__file__).parent)
