"""Facts about jobs, kept for the hooks: a hook names a job by its number only, and whose it was is asked when it has left the table.

A fact (an owner, a length of prompt) never changes, so noting it while a question is answered changes no answer: the notes are read by
hooks and by nothing else. What a policy was never shown is not there.
"""

import numpy as np

from rota.kernel.tables import FloatColumn, IntColumn, Jobs


class Shown:
    """The declared facts of every job that was in a question so far.

    Args:
        names: Columns that are facts; the policy declares them, and `id`, in `reads`.
    """

    def __init__(self, *names: str) -> None:
        self.fresh: list[int] = []  # shown since a hook last took note; hooks clear it
        self._known = np.zeros(0, np.bool_)
        self._facts: dict[str, FloatColumn] = {name: np.zeros(0) for name in names}

    def note(self, jobs: Jobs) -> None:
        """Keep the facts of the jobs of a question."""
        if not len(jobs):
            return
        numbers = jobs.id.astype(np.int64)  # some worlds show them as floats
        room, last = len(self._known), int(numbers.max())
        if last >= room:
            more = max(1024, room, last + 1 - room)
            self._known = np.concatenate([self._known, np.zeros(more, np.bool_)])
            self._facts = {name: np.concatenate([facts, np.zeros(more)]) for name, facts in self._facts.items()}
        new = ~self._known[numbers]
        if new.any():
            ids = numbers[new]
            self._known[ids] = True
            self.fresh += ids.tolist()
            for name, facts in self._facts.items():
                facts[ids] = getattr(jobs, name)[new]

    def __contains__(self, job: int) -> bool:
        return job < len(self._known) and bool(self._known[job])

    def of(self, name: str, job: int) -> float:
        """A fact of a job that was shown."""
        return float(self._facts[name][job])

    def facts(self, name: str, jobs: IntColumn) -> FloatColumn:
        """A fact of many jobs; NaN where a job was not shown."""
        found = np.full(len(jobs), np.nan)
        inside = jobs < len(self._known)
        inside[inside] = self._known[jobs[inside]]
        found[inside] = self._facts[name][jobs[inside]]
        return found
