"""Every order of the room keeps the rules of conformance, and each shows one fact of its paper on the simulator."""

from typing import ClassVar

import numpy as np

from rota.testing.conformance import ConformanceSuite, Subject
from rota.worlds.serving.policies import SERVING_ORDERS
from rota.worlds.serving.simulate import SERVING_JOB_COLUMNS


class TestOrders(ConformanceSuite):
    subjects: ClassVar = {
        name: Subject(
            policy,
            "order",
            job_columns=SERVING_JOB_COLUMNS,
            draws={"running": lambda rng, rows: rng.integers(0, 2, rows).astype(np.float64)},
            world="serving",
        )
        for name, policy in SERVING_ORDERS.items()
    }
