"""To a replica whose model is loaded: the fewest outstanding requests, where a model that would have to be loaded first counts as so many of them.

Locality-aware placement of requests as in ServerlessLLM (Fu et al., OSDI 2024), whose estimate of the loading time is the user's to give here, in requests.
"""

from dataclasses import dataclass

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError


@dataclass
class ResidentFirst(Place):
    """The fewest outstanding requests; a cold model counts as `worth` of them.

    Attributes:
        worth: Requests.
    """

    worth: float = 64.0

    reads = ("outstanding", "resident")

    def __post_init__(self) -> None:
        if not self.worth >= 0:
            raise InputError(f"worth must be at least 0 requests, found {self.worth:g}")
        self.cost_terms = {"outstanding": 1.0, "resident": -self.worth}
