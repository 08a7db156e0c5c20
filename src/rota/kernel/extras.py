"""Optional dependencies: asked for before they are needed, so that what is missing is told in one line."""

from importlib.util import find_spec

from rota.kernel.errors import MissingExtraError


def need(extra: str, what: str, *modules: str) -> None:
    """Make sure that the modules of an extra can be imported, without importing them.

    Raises:
        MissingExtraError: naming what needs it, the first module that is not there, and how to get it.
    """
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtraError(f"{what} needs {module}: pip install 'rota[{extra}]'")
