"""Urgency at the engine: the request whose elapsed time and own time are furthest over the limit of its stage goes first.

Peng et al., HexGen-Text2SQL: Optimizing LLM Inference Request Scheduling for Agentic Text-to-SQL Workflow, 2025: urgency = elapsed + own
time - limit of the stage. The limit of a stage is the request's own here (its due date less its arrival): a trace of single requests has
one stage. It differs from least slack in what a request needs: its whole time, also when part of it is done.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.tables import FloatColumn, Jobs
from rota.rules.due import LAST


@dataclass
class StageUrgency(Order):
    """Most urgent first; requests without a limit come last. A running request is left alone."""

    reads = ("release", "size", "due")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        limited = np.isfinite(jobs.due)
        elapsed, limit = now - jobs.release, np.where(limited, jobs.due - jobs.release, 0.0)
        return np.where(limited, limit - elapsed - jobs.size, LAST)
