"""The optimizers that a `Run` can name: torch's own, and textbook versions where torch has none."""

from __future__ import annotations

import torch
from torch import nn

from ..footprint.optimizer import CHUNK

# Those of `Run` that can take a step here.
BUILT = ("sgd", "momentum", "adamw", "adamw-fused", "adamw-8bit", "adafactor", "muon", "lion")

_BLOCK = 256  # elements that share one scale


class Lion(torch.optim.Optimizer):
    """Sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675, algorithm 2)."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            slow, fast = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"]
                update = torch.lerp(p.grad, momentum, slow).sign_()
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                momentum.lerp_(p.grad, 1 - fast)


class AdamW8bit(torch.optim.Optimizer):
    """AdamW whose two moments are bytes with one fp32 scale per 256 elements.

    Block-wise quantization of Dettmers et al. 2021 (arXiv:2110.02861), with linear codes of the
    first moment and of the second's square root. Tensors below 4096 elements keep fp32 moments, as
    there. The update goes through the tensor in chunks, as the fused kernels do, so that no
    full-precision copy of a whole moment ever exists.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)

    def _update(self, p, group):
        state = self.state[p]
        if not state:
            state["step"] = 0
            if p.numel() < 4096:
                state["moments"] = [torch.zeros_like(p, dtype=torch.float32) for _ in range(2)]
            else:
                state["moments"] = [*_quantized_zeros(p), *_quantized_zeros(p)]
        state["step"] += 1
        hyper = (group["lr"], *group["betas"], group["eps"], group["weight_decay"])
        if p.numel() < 4096:
            _adamw(p, p.grad.float(), *state["moments"], state["step"], *hyper)
        else:
            _adamw_8bit(p, p.grad, *state["moments"], state["step"], *hyper)


def _quantized_zeros(p):
    """Codes and scales of a moment."""
    codes = torch.zeros(p.numel(), dtype=torch.int8, device=p.device)
    blocks = -(-p.numel() // _BLOCK)
    return codes, torch.zeros(blocks, dtype=torch.float32, device=p.device)


# One operator, as the fused kernels of bitsandbytes and torchao are: no full-precision copy of a
# moment exists outside it. Inside, a few fp32 copies of a chunk (4 MiB each) do.
@torch.library.custom_op(
    "sizing::adamw_8bit",
    mutates_args=("weight", "first", "first_scale", "second", "second_scale"),
)
def _adamw_8bit(
    weight: torch.Tensor,
    grad: torch.Tensor,
    first: torch.Tensor,
    first_scale: torch.Tensor,
    second: torch.Tensor,
    second_scale: torch.Tensor,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    weight, grad = weight.view(-1), grad.reshape(-1)
    for start in range(0, weight.numel(), CHUNK):
        here = slice(start, min(start + CHUNK, weight.numel()))
        blocks = slice(start // _BLOCK, -(-here.stop // _BLOCK))
        moment = _dequantize(first[here], first_scale[blocks])
        root = _dequantize(second[here], second_scale[blocks])
        square = root.square_()
        _adamw(
            weight[here],
            grad[here].float(),
            moment,
            square,
            step,
            lr,
            beta1,
            beta2,
            eps,
            weight_decay,
        )
        first[here], first_scale[blocks] = _quantize(moment)
        second[here], second_scale[blocks] = _quantize(square.sqrt_())


@_adamw_8bit.register_fake
def _(*args) -> None:
    return None


ADAMW_8BIT = torch.ops.sizing.adamw_8bit.default


def _adamw(weight, grad, first, second, step, lr, beta1, beta2, eps, weight_decay):
    first.lerp_(grad, 1 - beta1)
    second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    denominator = (second / (1 - beta2**step)).sqrt_().add_(eps)
    weight.mul_(1 - lr * weight_decay)
    weight.addcdiv_(
        first.to(weight.dtype), denominator.to(weight.dtype), value=-lr / (1 - beta1**step)
    )


def _dequantize(codes, scales) -> torch.Tensor:
    return codes.float() * scales.repeat_interleave(_BLOCK)[: len(codes)]


def _quantize(values) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes from -127 to 127 and the scale of each block: its largest magnitude is code 127."""
    padded = nn.functional.pad(values, (0, -len(values) % _BLOCK)).view(-1, _BLOCK)
    scale = padded.abs().amax(dim=1) / 127
    inverse = torch.where(scale > 0, 1 / scale, 0).unsqueeze(1)
    codes = (padded * inverse).round_().view(-1)[: len(values)].to(torch.int8)
    return codes, scale


class MuonAdamW:
    """Muon for the matrices inside the layers, foreach AdamW for all else (its authors' advice)."""

    def __init__(self, matrices, others):
        self.parts = [torch.optim.Muon(matrices)] if matrices else []
        if others:
            self.parts.append(torch.optim.AdamW(others, foreach=True))

    @property
    def state(self) -> dict:
        return {p: state for part in self.parts for p, state in part.state.items()}

    def step(self):
        for part in self.parts:
            part.step()


class MasterWeights:
    """fp32 master copies beside bf16 weights (Micikevicius et al. 2018, arXiv:1710.03740).

    As in Megatron-LM: all gradients become fp32 and the bf16 ones are released, the optimizer steps
    on the masters, the weights receive the result.
    """

    def __init__(self, named, build):
        self.weights = [p for _, p in named]
        self.masters = [nn.Parameter(p.detach().float()) for p in self.weights]
        names = [name for name, _ in named]
        self.inner = build(list(zip(names, self.masters, strict=True)))

    @property
    def state(self) -> dict:
        return {**self.inner.state, None: {"masters": self.masters}}

    @torch.no_grad()
    def step(self, gradients=None):
        for i, (weight, master) in enumerate(zip(self.weights, self.masters, strict=True)):
            master.grad = gradients[i] if gradients else weight.grad.float()
            weight.grad = None
        self.inner.step()
        for weight, master in zip(self.weights, self.masters, strict=True):
            weight.copy_(master)
            master.grad = None


class InBackward:
    """An optimizer for each parameter, which steps when its gradient is complete and drops it, as
    in torchtune's full fine-tuning on one device."""

    def __init__(self, named, build):
        self.inner = [build([pair]) for pair in named]
        for (_, p), optimizer in zip(named, self.inner, strict=True):

            def update(p, optimizer=optimizer):
                optimizer.step()
                p.grad = None

            p.register_post_accumulate_grad_hook(update)

    @property
    def state(self) -> dict:
        return {p: state for part in self.inner for p, state in part.state.items()}

    def step(self):
        pass  # it has all happened


def build(name: str, named: list[tuple[str, nn.Parameter]], hidden: set[str]):
    """The optimizer that `Run.optimizer` names.

    Args:
        name: one of `Run`'s optimizers.
        named: (name, parameter) of what is trained.
        hidden: names of the matrices inside the layers, which Muon takes.

    Raises:
        ValueError: one that is not `BUILT` here.
    """
    if name not in BUILT:
        raise ValueError(
            f"optimizer: {name!r} given; allowed in a real or traced step: "
            f"{', '.join(map(repr, BUILT))}"
        )
    params = [p for _, p in named]
    if name == "muon":
        matrices = [p for n, p in named if n in hidden]
        return MuonAdamW(matrices, [p for n, p in named if n not in hidden])
    makers = {
        "sgd": lambda: torch.optim.SGD(params, lr=1e-2, foreach=True),
        "momentum": lambda: torch.optim.SGD(params, lr=1e-2, momentum=0.9, foreach=True),
        "adamw": lambda: torch.optim.AdamW(params, foreach=True),
        "adamw-fused": lambda: torch.optim.AdamW(params, fused=True),
        "adamw-8bit": lambda: AdamW8bit(params),
        "adafactor": lambda: torch.optim.Adafactor(params),
        "lion": lambda: Lion(params),
    }
    return makers[name]()
