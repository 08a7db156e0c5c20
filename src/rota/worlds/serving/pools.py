"""Pools: where a request's prompt is computed and where it is decoded, decided together; hosts change their roles while they run.

A host that is chosen for one half of a request, and whose role is the other half, is lent: it computes prompts and decodes (role `mixed`) until it has
nothing left to do, and then has its own role again. One that is chosen for both halves does both for this request, whatever its role. A policy may also say
from time to time which role each host shall have. What a host has begun under one role it finishes there.

The kernel keeps the accounts where it can (see `pool_engine`); `PoolBook` and `Mirrors` keep them where something else acts on the same requests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Policy
from rota.kernel.errors import InputError, PolicyError
from rota.kernel.tables import Column, Hosts, Jobs
from rota.worlds.serving import doors
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.mirrors import Mirrors
from rota.worlds.serving.pool_engine import PoolEngine, can_keep
from rota.worlds.serving.pool_rules import Halves, Pairs

if TYPE_CHECKING:
    from rota.worlds.serving.fleet import Fleet


@dataclass(frozen=True)
class Assignment:
    """Who serves a request: ids of hosts, equal where one does both halves; `lend`: those that besides shall do both for others, until they are free."""

    prompt: int
    decode: int
    lend: tuple[int, ...] = ()


POOL_COLUMNS = {
    column.name: column
    for column in (
        Column("role", "", "what the host does now: 0 both, 1 prompts, 2 answers"),
        Column("joined", "", "rank by when the hosts took the roles that they have, 0: first"),
        Column("waiting", "", "prompts and answers of requests that are here and not in the iteration under way"),
        Column("decoding", "", "requests that decode on the host"),
        Column("assigned", "", "requests that decode here or will"),
        Column("assigned_tokens", "tokens", "KV that those will have at their visible end, and prompts for others"),
        Column("capacity_tokens", "tokens", "KV that the host can hold"),
    )
}


class Pools(Policy):
    """Which hosts serve a request, asked once when the router can send it.

    Attributes:
        reads_job: Columns of the request that the policy may see; `reads` are those of the hosts, `POOL_COLUMNS` with them.
        every: Seconds between two questions about roles; inf: they are never asked.
        mirrored: Seconds between two updates of copies of KV, where hosts keep what they have computed for others; inf: they keep nothing. See `mirrors`.
    """

    reads_job: tuple[str, ...] = ()
    every: float = inf
    mirrored: float = inf

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        """The hosts of a request; None: none can now, it waits at the router."""
        raise NotImplementedError(f"{type(self).__name__} assigns no hosts")

    def moves(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int, int]]:
        """(from, to, how many): requests that have a copy at the other host and shall go on there. Asked where hosts keep copies."""
        return ()

    def roles(self, hosts: Hosts, now: float) -> Sequence[int] | None:
        """The role that each host shall have from now on; None: as they are."""
        return None

    def rule(self) -> Halves | Pairs | None:
        """What `assign` and `moves` decide by, where that is one of the rules that the simulator knows: then it need not ask. None: it asks."""
        return None


@dataclass
class PoolBook:
    """What a run remembers of its pools: who was promised what, and who is lent."""

    fleet: "Fleet"
    policy: Pools
    lends: int = 0  # times that a host was lent
    switches: int = 0  # roles that the policy has changed
    stays: int = 0  # requests that decode where their prompts were computed, as hosts waited for one another
    lent: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        run = self.fleet.run
        hosts, rows = len(run.replicas), len(run.workload)
        found = doors.unlike(run)
        if found is not None:
            job, host = found
            tokens = int(run.workload.prompt_tokens[job] + run.workload.output_tokens[job])
            raise InputError(
                f"pool: request {job} with {tokens:,} tokens fits some replicas and not replica {host} ({run.replicas[host].label}), for which it "
                "might wait for ever; give all of them memory for it, or leave such requests out"
            )
        self.dropped = 0  # copies that were in the way
        self.mirrors: Mirrors | None = None
        self.engine = PoolEngine(self) if can_keep(run) else None
        if self.engine is not None:
            self.assigned, self.tokens = self.engine.promised()
            self.home, self._joined = self.engine.roles()
        else:
            self.assigned, self.tokens = np.zeros(hosts), np.zeros(hosts)
            self.home, self._joined = run.hosts[:, at.ROLE].copy(), np.arange(hosts)
            self.prompt_at = np.full(rows, -1)  # host whose memory still has the prompt for another one
            self.decode_at = np.full(rows, -1)
        run.jobs[at.WATCHED] = 1
        first = run.begins
        if self.policy.mirrored < inf and self.engine is not None:
            self.engine.update_at(first + self.policy.mirrored, self.policy.mirrored)
        elif self.policy.mirrored < inf:
            self.mirrors = Mirrors(self, self.policy.mirrored)
        if self.policy.every < inf:
            self.fleet.later(first + self.policy.every, self._ask_roles, outage=True)
        run.state[at.POOLED] = 1

    @property
    def copies(self) -> dict[int, tuple[int, int]]:
        """Request -> (host, blocks) of the copy of its KV."""
        if self.engine is not None:
            return self.engine.copies
        return {} if self.mirrors is None else self.mirrors.copies

    def columns(self) -> dict[str, npt.NDArray[np.float64]]:
        """The columns of hosts that only pools have, as far as the policy reads them."""
        if self.engine is not None:
            return self.engine.columns()
        return {name: POOL_VALUES[name](self) for name in self._read}

    @cached_property
    def _read(self) -> tuple[str, ...]:
        return tuple(name for name in self.policy.reads if name in POOL_VALUES)

    # -- a request comes ------------------------------------------------------------------------------------------

    def costs(self, job: int, now: float) -> npt.NDArray[np.float64]:
        """Ask where a request goes, and keep the answer: 0 at the host of its prompt, inf elsewhere."""
        run = self.fleet.run
        out = np.full(len(run.replicas), inf)
        run.jobs[at.GOES_TO, job] = 0
        answer = self.ask(job, now)
        if answer is None:
            return out
        prompt, decode = answer.prompt, answer.decode
        if not doors.could_hold(run, job, decode):
            return out
        role = int(run.hosts[prompt, at.ROLE])
        run.jobs[at.GOES_TO, job] = at.HERE if prompt == decode else decode + 1
        if prompt != decode and role == at.DECODE_ROLE:
            run.hosts[prompt, at.ROLE] = at.MIXED_ROLE
        if not doors.could_take(run, job, prompt):
            run.hosts[prompt, at.ROLE], run.jobs[at.GOES_TO, job] = role, 0
            return out
        run.hosts[prompt, at.ROLE] = role
        for host, other in ((prompt, at.DECODE_ROLE), (decode, at.PREFILL_ROLE)):
            if prompt != decode and run.hosts[host, at.ROLE] == other:
                self._lend(host)
        for host in answer.lend:
            if run.hosts[host, at.ROLE] != at.MIXED_ROLE:
                self._lend(host)
        self._promise(job, prompt, decode)
        if self.mirrors is not None:
            self.mirrors.review_soon(now)
        out[prompt] = 0.0
        return out

    def ask(self, job: int, now: float) -> Assignment | None:
        """What the policy answers. Raises PolicyError where that is no answer."""
        answer = self.policy.assign(*self.fleet.run.views.question(self.policy, job, self.columns()), now)
        hosts = len(self.fleet.run.replicas)
        if answer is not None and not all(0 <= each < hosts for each in (answer.prompt, answer.decode, *answer.lend)):
            raise PolicyError(f"{type(self.policy).__name__}: {answer} at {now:g} s: hosts are 0 to {hosts - 1}")
        return answer

    def wanted(self, now: float) -> Sequence[tuple[int, int, int]]:
        """The moves that the policy asks for. Raises PolicyError where a host is none."""
        run = self.fleet.run
        run.telling.deliver()  # who is asked knows what has happened
        moves, hosts = (
            self.policy.moves(run.views.question(self.policy, None, self.columns())[1], now),
            len(run.replicas),
        )
        for source, target, _ in moves:
            if not (0 <= source < hosts and 0 <= target < hosts and source != target):
                raise PolicyError(
                    f"{type(self.policy).__name__}: move ({source}, {target}) at {now:g} s: ids of two hosts are needed"
                )
        return moves

    def _lend(self, host: int) -> None:
        """A host does both until it is free."""
        self._set(host, at.MIXED_ROLE)
        self.lent.add(host)
        self.lends += 1

    def _promise(self, job: int, prompt: int, decode: int) -> None:
        run = self.fleet.run
        self.forget(job)
        self.decode_at[job], self.prompt_at[job] = decode, prompt if prompt != decode else -1
        self.assigned[decode] += 1
        self.tokens[decode] += doors.visible_tokens(run, job)
        if prompt != decode:
            self.tokens[prompt] += run.workload.prompt_tokens[job] + 1

    # -- what becomes of it ---------------------------------------------------------------------------------------

    def target(self, job: int) -> int | None:
        """The host that a computed prompt was promised to, if it is up."""
        host = int(self.decode_at[job])
        run = self.fleet.run
        return host if host >= 0 and not run.hosts[host, at.SHUT] and doors.could_hold(run, job, host) else None

    def moved(self, job: int, host: int) -> None:
        """Another host than the promised one decodes a request."""
        if self.decode_at[job] not in (host, -1):
            tokens = doors.visible_tokens(self.fleet.run, job)
            for each, sign in ((int(self.decode_at[job]), -1), (host, 1)):
                self.assigned[each] += sign
                self.tokens[each] += sign * tokens
            self.decode_at[job] = host

    def arrived(self, job: int, now: float) -> None:
        """The KV of a request has come to the host that decodes it; the one that computed it may keep a copy."""
        source = int(self.prompt_at[job])
        self.landed(job)
        self.moved(job, int(self.fleet.run.jobs[at.HOST, job]))
        if self.mirrors is not None:
            self.mirrors.drop(job, now)
            if source not in (-1, int(self.fleet.run.jobs[at.HOST, job])):
                self.mirrors.add(job, source, now)
            self.mirrors.review_soon(now)

    def untie(self, host: int, now: float) -> None:
        """A host runs nothing, and nothing that waits there fits: copies go, then one of those that wait for one another decodes where its KV lies."""
        run = self.fleet.run
        if not doors.is_stuck(run, host) or (self.mirrors is not None and self.mirrors.give_way(host, now)):
            return
        job = doors.who_stays(run)
        if job >= 0:
            doors.stay(run, job, now)
            self.stays += 1
            self.arrived(job, now)

    def landed(self, job: int) -> None:
        """The KV has left the host that computed the prompt."""
        host = int(self.prompt_at[job])
        if host >= 0:
            self.tokens[host] -= self.fleet.run.workload.prompt_tokens[job] + 1
            self.prompt_at[job] = -1

    def forget(self, job: int) -> None:
        """A request has ended, or starts again somewhere else."""
        self.landed(job)
        host = int(self.decode_at[job])
        if host >= 0:
            self.assigned[host] -= 1
            self.tokens[host] -= doors.visible_tokens(self.fleet.run, job)
            self.decode_at[job] = -1

    def give_back(self) -> None:
        """Lent hosts that have nothing left to do have their own roles again; KV that is still on its way does not count."""
        run = self.fleet.run
        for host in sorted(self.lent):
            if not run.hosts[host, at.BUSY] and not doors.present(run, host):
                self.lent.discard(host)
                self._set(host, int(self.home[host]))

    # -- roles ----------------------------------------------------------------------------------------------------

    def _ask_roles(self, now: float) -> None:
        run = self.fleet.run
        self.fleet.later(now + self.policy.every, self._ask_roles, outage=True)
        table = run.views.question(self.policy, None, self.columns())[1]
        wanted = self.policy.roles(table, now)
        if wanted is None:
            return
        if len(wanted) != len(run.replicas) or not set(wanted) <= {at.MIXED_ROLE, at.PREFILL_ROLE, at.DECODE_ROLE}:
            raise PolicyError(f"{type(self.policy).__name__}: roles at {now:g} s must be 0, 1 or 2 for each host")
        for host, role in enumerate(wanted):
            if role != self.home[host]:
                self.switches += 1
                if self.engine is not None:
                    self.engine.set_role(host, int(role))
                    continue
                self.home[host] = role
                self.lent.discard(host)
                self._set(host, int(role))
        self.fleet.decoders_again(now)

    def _set(self, host: int, role: int) -> None:
        """A host has another role; what it could not decode here goes on to another one when its prompt is done."""
        run = self.fleet.run
        before, run.hosts[host, at.ROLE] = int(run.hosts[host, at.ROLE]), role
        self._joined[host] = self._joined.max() + 1
        if before == at.PREFILL_ROLE and role != at.PREFILL_ROLE:
            for job in doors.at_host(run, host):
                if run.jobs[at.GOES_TO, job] == 0 and not doors.could_hold(run, job, host):
                    run.jobs[at.GOES_TO, job] = at.ELSEWHERE
        run.state[at.DISPATCH] = 1


POOL_VALUES: dict[str, Callable[[PoolBook], npt.NDArray[np.float64]]] = {
    "role": lambda book: book.fleet.run.hosts[:, at.ROLE].astype(np.float64),
    "joined": lambda book: np.argsort(np.argsort(book._joined)).astype(np.float64),
    "waiting": lambda book: doors.waiting(book.fleet.run),
    "decoding": lambda book: (
        book.fleet.run.hosts[:, [at.DECODES, at.PAUSED_COUNT, at.LANDINGS]].sum(axis=1).astype(np.float64)
    ),
    "assigned": lambda book: book.assigned.copy(),
    "assigned_tokens": lambda book: book.tokens.copy(),
    "capacity_tokens": lambda book: (
        book.fleet.run.hosts[:, at.KV_BLOCKS] * book.fleet.run.hosts[:, at.BLOCK_TOKENS]
    ).astype(np.float64),
}
