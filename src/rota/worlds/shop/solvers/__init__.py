"""Solvers by name, one file each. They are imported when they are asked for: some need an extra."""

from collections.abc import Mapping
from importlib import import_module

from rota.kernel.errors import InputError, nearest
from rota.worlds.shop.solver import Solver

SOLVERS: Mapping[str, str] = {
    "rule": "rota.worlds.shop.solvers.rule:Dispatch",  # rule:mwkr names the rule; shops of chains
    "beam": "rota.worlds.shop.solvers.beam:Beam",  # beam:mwkr; shops of chains, any objective
    "tabu": "rota.worlds.shop.solvers.tabu:Tabu",  # job shop: makespan, maximum lateness
    "flexible_tabu": "rota.worlds.shop.solvers.flexible_tabu:FlexibleTabu",  # flexible job shop, makespan
    "project": "rota.worlds.shop.solvers.project:ProjectSearch",  # RCPSP, makespan
    "iterated_greedy": "rota.worlds.shop.solvers.iterated_greedy:IteratedGreedy",  # permutation flow shop
    "single": "rota.worlds.shop.solvers.single:SingleRule",  # single:mddc; one machine, total tardiness
    "branch": "rota.worlds.shop.solvers.branch:BranchAndMemorise",  # the same, to proof
    "dynasearch": "rota.worlds.shop.solvers.dynasearch:Dynasearch",  # one machine, weighted tardiness
    "cpsat": "rota.worlds.shop.solvers.cpsat:CpSat",  # any, to proof
    "annealing": "rota.worlds.shop.solvers.annealing:Annealing",  # job and flow shops, any objective
    "lns": "rota.worlds.shop.solvers.lns:LargeNeighbourhood",  # any, CP-SAT repairs
    "portfolio": "rota.worlds.shop.solvers.portfolio:Portfolio",
}


def solver_class(name: str) -> type[Solver]:
    """The class of a solver. Raises InputError with the nearest names."""
    if name not in SOLVERS:
        raise InputError(f"solver: there is none called '{name}'{nearest(name, SOLVERS)}")
    module, _, found = SOLVERS[name].partition(":")
    made: type[Solver] = getattr(import_module(module), found)
    return made


def solver(name: str) -> Solver:
    """A solver by name, ``"tabu"``, or with its one text parameter, ``"rule:mwkr"``. Raises InputError."""
    head, _, argument = name.partition(":")
    made = solver_class(head)
    if argument and not made.takes:
        raise InputError(f"solver: {head} takes nothing after its name, found '{argument}'")
    return made(*([argument] if argument else []))
