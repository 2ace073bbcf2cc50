"""What code asks of values when tensors have none: answers as of evenly spread routing.

Some mixtures loop over their experts, and ask which tokens go where (DBRX, LongCat) or how many
(JetMoE). A trace answers that every expert is hit, by as many tokens as any other. X-MOD picks the
sequences of each language: all are of the default one. Other code asks for a single number, such as
the longest sequence of a batch: it is told 1.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
# Names of (experts, chosen) in the configs whose code loops over experts.
LOOPS = {
    "dbrx": ("moe_num_experts", "moe_top_k"),
    "jetmoe": ("num_local_experts", "num_experts_per_tok"),
    "longcat_flash": ("n_routed_experts", "moe_topk"),
}


class EvenRoutes(TorchDispatchMode):
    """Answers for a run's model; tokens times chosen experts must divide by the experts.

    Raises:
        ValueError: they do not.
    """

    def __init__(self, run, config):
        super().__init__()
        experts, chosen = self._of(config, run.model.family)
        rows = run.micro_batch * run.sequence * chosen
        if rows % experts:
            raise ValueError(
                f"sequence: {run.sequence} given; allowed, to spread {chosen} choices of each "
                f"token over {experts} experts evenly: a multiple of {experts}"
            )
        self.experts, self.rows = experts, rows // experts
        self.counts = run.model.family == "jetmoe"  # a number that is asked for is a group's size
        self.languages = _languages(config) if run.model.family == "xmod" else ()
        self.asked = 0

    @staticmethod
    def _of(config, family: str) -> tuple[int, int]:
        if family not in LOOPS:
            return 1, 1
        if family == "dbrx":
            config = config.ffn_config
        experts, chosen = (getattr(config, name) for name in LOOPS[family])
        return experts + (getattr(config, "zero_expert_num", 0) or 0), chosen

    def answer(self, tensor: torch.Tensor) -> float | int:
        """A tensor's one number."""
        if tensor.is_floating_point():
            return 1.0
        return self.rows if self.counts and tensor.dtype == torch.long else 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is _aten._local_scalar_dense.default:
            return self.answer(args[0])
        if func is _aten.nonzero.default:
            mask = args[0]
            rows = self.experts if mask.ndim == 1 or mask.shape[-1] == 1 else self.rows
            return mask.new_empty((rows, mask.ndim), dtype=torch.long)
        if self.languages and func in _PICKED and args[1][0].dtype == torch.bool:
            args = (args[0], [self._picked(func, args)], *args[2:])
        return func(*args, **(kwargs or {}))

    def _picked(self, func, args) -> torch.Tensor:
        """The places that a mask of sequences stands for, language after language."""
        if func is _aten.index.Tensor:
            rows = args[1][0].numel() * self.languages[self.asked % len(self.languages)]
            self.asked += 1
        else:
            rows = args[2].shape[0]
        return args[1][0].new_empty((rows,), dtype=torch.long)


_PICKED = (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default)


def _languages(config) -> tuple[bool, ...]:
    """Of each language whether it is the one that a batch has."""
    if config.default_language is None:
        raise ValueError(
            "default_language: None given; allowed: one of languages = "
            f"{', '.join(map(repr, config.languages))} (a batch must have one)"
        )
    return tuple(name == config.default_language for name in config.languages)
