"""Rules that read only the columns every world has, so that they run in every world.

One dictionary a shape, because a name may mean one thing for orders and another for places (`random` does). A value is
a class, or ``"module:Class"`` where importing it costs something. `rota.rules.find.find` turns what a scenario says
into a policy.
"""

from rota.kernel.decisions import Allot, Order, Place
from rota.rules.arrival import FirstCome, LastCome, RandomOrder
from rota.rules.balance import LeastOutstanding, LeastQueued, LeastWork, RoundRobin
from rota.rules.budget import DiscriminatorySharing, ProcessorSharing, WeightedSharing
from rota.rules.due import EarliestDue, LeastSlack, PriorityFirst
from rota.rules.fair import LeastServedTenant
from rota.rules.sampling import PowerOfTwo, RandomPlace
from rota.rules.service import LeastAttained
from rota.rules.size import PreemptiveShortest, ShortestFirst, ShortestRemaining

ORDERS: dict[str, type[Order]] = {
    "fcfs": FirstCome,
    "lcfs": LastCome,
    "sjf": ShortestFirst,
    "srpt": ShortestRemaining,
    "psjf": PreemptiveShortest,
    "las": LeastAttained,
    "priority": PriorityFirst,
    "edf": EarliestDue,
    "least_slack": LeastSlack,
    "fair": LeastServedTenant,
    "random": RandomOrder,
}
PLACES: dict[str, type[Place]] = {
    "random": RandomPlace,
    "round_robin": RoundRobin,
    "least_outstanding": LeastOutstanding,
    "least_queued": LeastQueued,
    "power_of_two": PowerOfTwo,
    "least_work": LeastWork,
}
ALLOTS: dict[str, type[Allot]] = {
    "processor_sharing": ProcessorSharing,
    "weighted_sharing": WeightedSharing,
    "discriminatory_sharing": DiscriminatorySharing,
}
