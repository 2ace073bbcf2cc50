"""Which function records a layer of a family."""

from __future__ import annotations

from .classic import CLASSIC
from .decoder import decoder
from .layers import LAYERS

# Their attention is written into the layer: no other can be put in its place.
OWN_ATTENTION = ("bloom", "falcon", "gpt_neo", "gptj", "mpt")
_OWN = {**LAYERS, **CLASSIC}


def layer_of(family: str):
    """The function (forward, input) -> output; `decoder` for every family without its own."""
    return _OWN.get(family, decoder)
