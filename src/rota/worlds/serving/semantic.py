"""A semantic cache before the router: an earlier answer to a request of the same meaning will do.

What requests mean is a model, not text. A request has a category and, in it, a topic; requests of one topic have the same answer. Its embedding is as similar
to a stored request of its topic as a normal number of the category's mean `same` says, and to the most similar one of another topic as one of mean `other`
says: near each other where a category is dense (code), far apart where it is not (conversation). A look-up finds the more similar of the two if that is
at least the threshold. If it is of another topic, or older than the category's answers stay true, the answer is wrong. Answers are stored when they are
whole, up to a quota; the least recently found goes. All draws are keyed by request.

A recalled request is an outcome of its own kind (status ``recalled``): its latency is the look-up, it uses no replica, and it counts as good if it is right.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from rota.kernel.config import decode
from rota.kernel.decisions import Policy
from rota.kernel.errors import InputError, nearest
from rota.kernel.streams import normal, uniform
from rota.kernel.tables import Hosts
from rota.worlds.serving import doors
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.labels import Label
from rota.worlds.serving.model import Workload

if TYPE_CHECKING:
    from rota.worlds.serving.fleet import Fleet

Above0 = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Category(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Requests of one kind: how often they repeat, how alike they look, how long their answers stay true."""

    topics: Annotated[int, msgspec.Meta(ge=1)]
    share: Above0 = 1.0  # of the requests, relative to the other categories
    zipf: Annotated[float, msgspec.Meta(ge=0)] = 1.0  # popularity of the k-th topic: k to the power of minus this
    same: Share = 0.9  # mean similarity of two requests of a topic
    other: Share = 0.7  # mean similarity to the nearest request of another topic
    spread: Annotated[float, msgspec.Meta(ge=0)] = 0.05  # standard deviation of both
    true_seconds: Above0 = 1e9  # how long an answer stays true


Categories = Mapping[str, Category]


class Rule(NamedTuple):
    """What a policy says of a category at a moment."""

    threshold: float  # least similarity
    ttl: float  # seconds that an answer is kept
    quota: int  # answers of the category that are kept; 0: it is not looked up at all


class Recall(Policy):
    """When will an earlier answer do?

    Attributes:
        reads: Host columns.
        lookup: Seconds of a look-up, found or not.
        common: Quota and store are of all categories together: `rule` must give all the same.
    """

    lookup: float = 0.002
    common: bool = False

    def rule(self, category: str, hosts: Hosts, now: float) -> Rule:
        """Threshold, time to live and quota of a category."""
        raise NotImplementedError(f"{type(self).__name__} does not say when an answer will do")


def load_topics(sections: Mapping[str, Any]) -> Categories:
    """The section `categories`. Raises InputError."""
    written = decode(dict[str, Any], sections.get("categories") or {}, "categories")
    return {name: decode(Category, each, f"categories.{name}") for name, each in written.items()}


def apply_topics(work: Workload, categories: Categories, seed: int) -> Workload:
    """The workload with categories and topics: those of the trace, others drawn.

    Raises:
        InputError: the trace names a category that is not defined, or topics without categories.
    """
    if not categories:
        return work
    rows, names = np.arange(len(work)), tuple(categories)
    label, topic = work.labels.category, work.labels.topic
    for name in label.names if label is not None else ():
        if name not in categories:
            raise InputError(
                f"categories: the trace names category '{name}', which is not defined{nearest(name, names)}"
            )
    if label is None:
        shares = np.cumsum([each.share for each in categories.values()])
        index = np.searchsorted(shares / shares[-1], uniform(seed, "topics/category", rows), side="right")
        label = Label(np.minimum(index, len(names) - 1), names)
    else:
        place = np.array([*(names.index(name) for name in label.names), -1], np.int64)
        label = Label(place[label.index], names)
    if topic is None:
        topic = _topics(categories, label, seed)
    return replace(work, labels=replace(work.labels, category=label, topic=topic))


def _topics(categories: Categories, label: Label, seed: int) -> Label:
    """A topic for each request, numbered through all categories."""
    drawn, found, first = uniform(seed, "topics/topic", np.arange(len(label.index))), np.full(len(label.index), -1), 0
    for number, each in enumerate(categories.values()):
        mine = label.index == number
        edges = np.cumsum(np.arange(1, each.topics + 1, dtype=np.float64) ** -each.zipf)
        found[mine] = first + np.minimum(np.searchsorted(edges / edges[-1], drawn[mine], side="right"), each.topics - 1)
        first += each.topics
    return Label(found.astype(np.int64), tuple(map(str, range(first))))


@dataclass(frozen=True)
class Similarity:
    """What a look-up of each request finds: similarity to its own topic, and to the nearest other one."""

    categories: Categories
    same: npt.NDArray[np.float64]
    other: npt.NDArray[np.float64]


def draw_similarity(work: Workload, categories: Categories, seed: int) -> Similarity:
    """Similarities of all requests."""
    rows, label = np.arange(len(work)), work.labels.category
    kinds = [*categories.values(), Category(1, spread=0.0)]
    index = np.full(len(work), -1) if label is None else label.index
    mean, spread = ({name: np.array([getattr(each, name) for each in kinds])[index] for name in ("same", "other")},
                    np.array([each.spread for each in kinds])[index])  # fmt: skip
    found = {name: mean[name] + spread * normal(seed, f"topics/{name}", rows) for name in ("same", "other")}
    return Similarity(categories, found["same"], found["other"])


class Answers:
    """Stored answers: by when they were found last, and by when they became whole."""

    def __init__(self) -> None:
        self._found: OrderedDict[int, None] = OrderedDict()  # topics, the least recently found first
        self._since: OrderedDict[int, float] = OrderedDict()  # topics, the oldest first

    def __len__(self) -> int:
        return len(self._since)

    def since(self, topic: int) -> float | None:
        """When the answer became whole; None: there is none."""
        return self._since.get(topic)

    def find(self, topic: int) -> None:
        """An answer is found."""
        self._found.move_to_end(topic)

    def put(self, topic: int, now: float, quota: int) -> None:
        """Store an answer; the least recently found go where there are too many."""
        for part in (self._found, self._since):
            part.pop(topic, None)
        self._found[topic], self._since[topic] = None, now
        while len(self._found) > quota:
            del self._since[self._found.popitem(last=False)[0]]

    def forget(self, before: float) -> None:
        """Answers that became whole before a time are gone."""
        while self._since:
            topic = next(iter(self._since))
            if self._since[topic] >= before:
                return
            del self._since[topic], self._found[topic]


class AnswerStore:
    """The store of one run."""

    def __init__(self, fleet: "Fleet", policy: Recall, known: Similarity) -> None:
        self.fleet, self.run, self.policy, self.known = fleet, fleet.run, policy, known
        self.run.state[at.GATE] = 1
        self.run.jobs[at.WATCHED] = 1
        category, topic = self.run.workload.labels.category, self.run.workload.labels.topic
        if category is None or topic is None:
            raise InputError("categories: the workload has none; give the section categories: {NAME: {topics: 1000}}")
        self.category, self.topic, self.names = category.index, topic.index, category.names
        self.stores: dict[int, Answers] = {}  # by category
        self.looked = 0
        self.right = np.zeros(len(self.category), np.bool_)  # of those that were recalled

    def _store(self, category: int) -> Answers:
        return self.stores.setdefault(0 if self.policy.common else category, Answers())

    def _rule(self, job: int, now: float) -> Rule:
        category = int(self.category[job])
        if category < 0:
            return Rule(1.0, 0.0, 0)
        return self.policy.rule(self.names[category], self.run.views.table(self.policy.reads), now)

    def arrives(self, job: int, now: float) -> None:
        """A request comes: its look-up ends a little later."""
        rule = self._rule(job, now)
        if rule.quota == 0:
            self.fleet.comes(job, now)
        else:
            self.looked += 1
            self.fleet.later(now + self.policy.lookup, partial(self._looked_up, job, rule))

    def _looked_up(self, job: int, rule: Rule, now: float) -> None:
        right = self._find(job, rule, now)
        if right is None:
            self.fleet.comes(job, now)
        else:
            self.right[job] = right
            doors.recall(self.run, job, now)

    def _find(self, job: int, rule: Rule, now: float) -> bool | None:
        """Whether the answer that is found is right; None: none is found."""
        category, topic = int(self.category[job]), int(self.topic[job])
        store = self._store(category)
        store.forget(now - rule.ttl)
        since = store.since(topic)
        others = len(store) - (since is not None) > 0
        same = self.known.same[job] if since is not None else -np.inf
        other = self.known.other[job] if others else -np.inf
        if max(same, other) < rule.threshold:
            return None
        if since is not None and same >= other:
            store.find(topic)
            return bool(now - since <= self.known.categories[self.names[category]].true_seconds)
        return False

    def ended(self, job: int, now: float) -> None:
        """An answer is whole: it is stored."""
        rule = self._rule(job, now)
        if rule.quota == 0:
            return
        self._store(int(self.category[job])).put(int(self.topic[job]), now, rule.quota)


def break_even(lookup: float, model_seconds: float) -> float:
    """The hit rate from which on a look-up saves time: what it costs each request over what a hit saves."""
    return lookup / model_seconds
