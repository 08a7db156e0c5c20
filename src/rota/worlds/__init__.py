"""The worlds, imported when they are named: each is heavy, and a study needs one."""

from importlib import import_module

from rota.kernel.errors import InputError, nearest
from rota.kernel.world import World

WORLDS = {
    "serving": "rota.worlds.serving.world:Serving",
    "queues": "rota.worlds.queues.world:Queues",
    "shop": "rota.worlds.shop.world:Shop",
}


def world(name: str) -> World:
    """A world by name. Raises InputError with the nearest names."""
    if name not in WORLDS:
        raise InputError(f"world: '{name}' does not exist{nearest(str(name), WORLDS)}")
    module, _, attribute = WORLDS[name].partition(":")
    found: World = getattr(import_module(module), attribute)()
    return found
