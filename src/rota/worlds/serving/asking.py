"""Orders that are asked: the table of those that wait is shown, and their keys are taken back to the kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Order
from rota.kernel.errors import PolicyError
from rota.kernel.tables import Jobs
from rota.worlds.serving.arrays import KEY_ROOM
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.rounds import LEFT
from rota.worlds.serving.views import LENGTHS

if TYPE_CHECKING:
    from rota.worlds.serving.simulate import Simulation

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]

_KEY_SLOTS = ((at.A_KEYS, at.KEY_WIDTH), (at.A_VICTIM_KEYS, at.VICTIM_WIDTH), (at.A_HOLD_KEYS, at.HOLD_KEY_WIDTH))
_PROGRAM_COLUMNS = ("program_attained", "path_attained", LEFT)


class Asking:
    """The orders of one run: of waiting requests, of victims, of the router's line."""

    def __init__(self, run: "Simulation") -> None:
        self.run = run
        self._orders = run.roles.order, run.roles.victim, run.roles.hold  # by kind of question
        self._plans: dict[int, _Plan] = {}
        self._reviewed = {id(p) for p in (run.roles.order, run.roles.hold) if type(p).review is not Order.review}

    def static_keys(self, policy: Order, slot: int, width: int) -> bool:
        """Compute keys once where they cannot change. Returns whether the policy must be asked instead."""
        run = self.run
        if policy.asked != "arrival" or (run.makes_arrivals and {"release", *_PROGRAM_COLUMNS} & set(policy.reads)):
            return True
        if run.learns is not None and set(LENGTHS) & set(policy.reads):
            return True
        rows = len(run.workload)
        keys = np.asarray(policy.keys(run.views.static_table(policy.reads), 0.0), np.float64)
        if keys.shape[:1] != (rows,) or keys.ndim > 2 or np.isnan(keys).any():
            raise PolicyError(
                f"{type(policy).__name__}: keys for {rows} jobs have shape {keys.shape} or contain NaN; answer one number (or inf) a row"
            )
        run.own(slot, np.ascontiguousarray(keys.reshape(rows, -1)))
        run.state[width] = run.arrays[slot].shape[1]
        return False

    def name(self) -> str:
        """Who is asked."""
        return type(self._orders[self.run.state[at.ASK_KIND]]).__name__

    def _prepare(self, kind: int) -> "_Plan":
        """What is prepared once for each role that is asked: codes, buffers and the keys' width."""
        from rota.worlds.serving.kernels.gather import gather  # compiled only when a policy is asked

        run, policy = self.run, self._orders[kind]
        names = tuple(name for name in policy.reads if name in run.views.codes)  # type: ignore[union-attr]
        codes = np.array([run.views.codes[name] for name in names], np.int64)
        out = np.zeros((max(len(names), 1), len(run.rows)))
        shown = out.view()
        shown.flags.writeable = False
        ids = run.rows.view()
        ids.flags.writeable = False
        plan = _Plan(policy, names, codes, out, shown, ids if "id" in policy.reads else None, gather)  # type: ignore[arg-type, union-attr]
        self._plans[kind] = plan
        return plan

    def ask(self) -> None:
        """Show the table, and take the answer."""
        run, state = self.run, self.run.state
        kind, count, now = int(state[at.ASK_KIND]), int(state[at.ASK_ROWS]), float(run.clock[0])
        plan = self._plans.get(kind)
        if plan is None or plan.out.shape[1] != len(run.rows):
            plan = self._prepare(kind)
        if run.makes_arrivals:
            run.views.fixed[run.views.codes["release"]] = run.seconds[at.ARRIVAL]
        plan.gather(state, plan.codes, run.views.fixed, count, plan.out)
        shown = plan.shown
        values: dict[str, npt.NDArray[Any]] = {name: shown[c, :count] for c, name in enumerate(plan.names)}
        if plan.ids is not None:
            values["id"] = plan.ids[:count]
        jobs = Jobs.over(values, run.views.by_name, count)
        answer = plan.policy.keys(jobs, now)
        run.questions.order += 1
        self._take(plan, kind, answer, count)
        if id(plan.policy) in self._reviewed and state[at.ASK_HOST] >= 0:
            again = plan.policy.review(jobs, now)
            run.clocks[state[at.ASK_HOST], at.REVIEW_AT] = again if again > now else np.inf

    def _take(self, plan: "_Plan", kind: int, answer: Any, count: int) -> None:
        run = self.run
        keys = answer if isinstance(answer, np.ndarray) else np.asarray(answer, np.float64)
        shape = keys.shape
        if not shape or shape[0] != count or len(shape) > 2 or (len(shape) == 2 and shape[1] > KEY_ROOM):
            raise PolicyError(
                f"{type(plan.policy).__name__}: keys at {run.clock[0]:g} s have shape {shape}, expected ({count},) or ({count}, k <= {KEY_ROOM})"
            )
        width = shape[1] if len(shape) == 2 else 1
        slot, scalar = _KEY_SLOTS[kind]
        if width != run.state[scalar]:
            run.own(slot, np.zeros((len(run.workload), width)))
            run.state[scalar] = width
        run.state[at.ANSWER_WIDTH] = width
        if len(shape) == 1:
            run.answer[:count] = keys
        else:
            run.answer[: count * width] = keys.reshape(-1)


@dataclass
class _Plan:
    policy: Order
    names: tuple[str, ...]
    codes: IntColumn
    out: FloatColumn
    shown: FloatColumn
    ids: IntColumn | None
    gather: Callable[..., None]
