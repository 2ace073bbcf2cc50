"""Which function records a layer of a family."""

from __future__ import annotations

from .classic import CLASSIC
from .decoder import decoder
from .layers import LAYERS

_OWN = {**LAYERS, **CLASSIC}


def layer_of(family: str):
    """The function (forward, input) -> output; `decoder` for every family without its own."""
    return _OWN.get(family, decoder)
