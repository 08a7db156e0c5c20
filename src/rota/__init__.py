"""rota decides who runs next, where, and with how much."""

__version__ = "0.1.0"
