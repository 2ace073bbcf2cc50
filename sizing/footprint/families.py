"""Which function records a layer of a family."""

from __future__ import annotations

from .classic import CLASSIC
from .decoder import decoder
from .gemma3n import enter, gemma3n, leave
from .gemma4 import gemma4, per_layer_inputs
from .layers import LAYERS
from .minimax import minimax

# Their attention is written into the layer: no other can be put in its place.
OWN_ATTENTION = ("bloom", "falcon", "gpt_neo", "gptj", "mpt")
_OWN = {**LAYERS, **CLASSIC, "gemma3n_text": gemma3n, "gemma4_text": gemma4, "minimax": minimax}
# What all layers read beside the hidden states: a function (forward, embedding) -> tensor.
BESIDE = dict.fromkeys(("gemma3n_text", "gemma4_text"), per_layer_inputs)
# What makes of the embedding what the layers read, and of their output what the last norm reads.
ENTER = {"gemma3n_text": enter}
LEAVE = {"gemma3n_text": leave}


def layer_of(family: str):
    """The function (forward, input) -> output; `decoder` for every family without its own."""
    return _OWN.get(family, decoder)
