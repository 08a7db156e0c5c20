"""One replica behind vLLM's HTTP interface: the serving world's physics in real or scaled time."""

from rota.route.engine.engine import Engine
from rota.route.engine.faults import Fault
from rota.route.engine.settings import Settings

__all__ = ["Engine", "Fault", "Settings"]
