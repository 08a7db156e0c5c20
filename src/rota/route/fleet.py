"""The backends: which there are, who may take a request, and how the list changes while requests are on their way."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rota.route.backend import Backend
from rota.route.job import Job
from rota.route.problems import Problem
from rota.route.settings import BackendSettings, Document


class Fleet:
    """All backends by name. A name keeps its id and its account for as long as the router runs."""

    def __init__(self, written: Document, folder: Path, clock: Callable[[], float]) -> None:
        self.written, self.folder, self._clock = written, folder, clock
        self.backends: dict[str, Backend] = {}
        self.leaving: list[Backend] = []  # taken from the list, still answering
        self._ids: dict[str, int] = {}
        self.started = False  # backends that are there from the start share the load at once
        self.changed: list[Callable[[Backend, bool], None]] = []  # told of each backend that comes or goes

    def change(self, written: Document, listed: Iterable[BackendSettings]) -> None:
        """Make the fleet what the list says: new ones join, missing ones finish what they have, others change their settings."""
        self.written = written
        wanted = {each.name: each for each in listed}
        for name in [name for name in self.backends if name not in wanted]:
            gone = self.backends.pop(name)
            gone.draining = True
            self.leaving.append(gone)
            self._tell(gone, False)
        for name, settings in wanted.items():
            if name in self.backends:
                backend = self.backends[name]
                moved = backend.settings.url != settings.url
                backend.change(settings, written, self.folder)
                if moved:
                    backend.up, backend.served, backend.reported = settings.health is None, None, None
            else:
                self.backends[name] = self._join(settings)
        self._level()

    def _join(self, settings: BackendSettings) -> Backend:
        id = self._ids.setdefault(settings.name, len(self._ids))
        back = next((each for each in self.leaving if each.name == settings.name), None)
        if back is not None:  # it was only away for a moment: its account goes on
            self.leaving.remove(back)
            back.draining = False
            back.change(settings, self.written, self.folder)
        joined = back or Backend(id, settings, self.written, self.folder)
        if self.started:
            joined.warm_since = self._clock()
        self._tell(joined, True)
        return joined

    def came_up(self, backend: Backend) -> None:
        """A backend is up again, or for the first time: it starts slowly, and is not paid back the turns that it missed."""
        if self.started and any(each.up for each in self.backends.values() if each is not backend):
            backend.warm_since = self._clock()
        self._level(backend)
        self._tell(backend, True)

    def went_down(self, backend: Backend) -> None:
        """A backend is down."""
        backend.pool.close()
        self._tell(backend, False)

    def _level(self, *only: Backend) -> None:
        """Nobody starts with fewer turns than the one who had fewest: round robin would send everything there to catch up."""
        joining = only or [each for each in self.backends.values() if each.turns == 0]
        others = [each.turns for each in self.backends.values() if each not in joining and each.up]
        for each in joining:
            each.turns = max(each.turns, min(others, default=0.0))

    def _tell(self, backend: Backend, up: bool) -> None:
        for told in self.changed:
            told(backend, up)

    def candidates(self, job: Job, now: float) -> Sequence[Backend]:
        """The backends that could take a job now or when they have room, without those that failed it already unless no other is left.

        Raises:
            Problem: 404 no backend has the model, 503 none of those that have it is up.
        """
        offering = [each for each in self.backends.values() if each.offers(job.model)]
        if not offering:
            if any(each.up for each in self.backends.values()):
                text = f"the model '{job.model}' does not exist here"
                raise Problem(404, text, "invalid_request_error", "model", "model_not_found")
            raise Problem(503, "no backend is up", code="no_backend", retry_after=self.written.health.every)
        usable = [each for each in offering if each.usable(now)]
        if not usable:
            text = f"no backend that has the model '{job.model}' is up" if job.model else "no backend is up"
            raise Problem(503, text, code="no_backend", retry_after=self.written.health.every)
        return [each for each in usable if each.id not in job.tried] or usable

    def sweep(self, now: float) -> None:
        """Close idle connections, and forget those that left and are done."""
        for each in (*self.backends.values(), *self.leaving):
            each.pool.sweep(now)
        for each in [each for each in self.leaving if not each.outstanding]:
            each.pool.retire()
            self.leaving.remove(each)

    @property
    def outstanding(self) -> int:
        """Requests at all backends."""
        return sum(len(each.outstanding) for each in (*self.backends.values(), *self.leaving))

    def offers(self, model: str) -> bool:
        """Whether any backend has a model, up or not."""
        return any(each.offers(model) for each in self.backends.values())

    def models(self) -> dict[str, list[Backend]]:
        """Every model with the backends that are up and say they have it."""
        found: dict[str, list[Backend]] = {}
        for each in self.backends.values():
            for model in each.models if each.up else ():
                found.setdefault(model, []).append(each)
        return dict(sorted(found.items()))

    def describe(self) -> dict[str, dict[str, float | None]]:
        """The sizes of each backend as far as they are known, for the recording: a replay needs them."""
        found: dict[str, dict[str, float | None]] = {}
        for name, each in self.backends.items():
            seen = each.reported
            found[name] = {
                "kv_blocks": each.settings.kv_blocks or (seen.kv_blocks if seen is not None else None),
                "block_tokens": seen.block_tokens if seen is not None else None,
                "max_running": each.settings.max_running,
                "max_outstanding": each.settings.max_outstanding,
            }
        return found
