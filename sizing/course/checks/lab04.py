"""Lab 04, sequence length: what is right, and what each known mistake leads to."""

from ...architecture.model import Model
from ...footprint import saved_tensors
from ...hardware import gpu
from ...run import Run
from ...units import GB, GIB
from ..exercise import Exercise

QWEN = Model("qwen3-32b")
GEMMA = Model("gemma-3-27b")
LLAMA = Model("llama-3.1-8b")
LONG = 131072
MILLION = 2**20
SNAPSHOT = 70.46e9  # bytes of s x s tensors in exercise 3
KEPT = 241_800  # bytes a token that a layer of Llama-3.1-8B keeps: flash, bf16 autocast


def crossing(matrices=3, kv_heads=QWEN.kv_heads, width=QWEN.heads * QWEN.head_dim, outer=0):
    """Length at which a layer's scores, `width` wide, cost as much as its weights."""
    h, a, d = QWEN.hidden, QWEN.heads, QWEN.head_dim
    weights = 2 * h * a * d + 2 * h * kv_heads * d + matrices * h * QWEN.ffn + outer
    return weights / (2 * width)


def rates(parameters=1.3e9, pairs=12, factor=6):
    """Tokens a second an A100 for FlashAttention-2's two rows of the 1.3 B model."""
    return tuple(
        rate * 1e12 / (factor * parameters + pairs * 24 * 2048 * s)
        for rate, s in ((196, 2048), (220, 8192))
    )


def kept(**said):
    """(bytes per score of the snapshot, what GPT-2 keeps of s x s); `said` replaces some."""
    scores = 48 * 25 * 8 * 1024**2  # layers, heads, sequences, pairs of tokens
    waits = {"scores": False, "softmax": True, "before": False, "mask": True, "after": True} | said
    each = round(SNAPSHOT / scores)
    run = Run("gpt2-xl", sequence=1024, micro_batch=8, attention="eager")
    square = sum(
        tensor.bytes * run.model.layers
        for tensor in saved_tensors(run)
        if tensor.shape[-2:] == (1024, 1024) and not tensor.shared
    )
    assert round(square / scores) == each, "the library keeps as many bytes per score"
    return each, waits


def cache(full=10, sliding=52, tensors=2, heads=GEMMA.kv_heads, window=1024, unit=GB):
    """KV cache of Gemma 3 27B at 131,072 tokens."""
    return tensors * heads * GEMMA.head_dim * 2 * (full * LONG + sliding * window) / unit


def ring(budget=40 * GB, layers=LLAMA.layers, sharing=LLAMA.kv_heads / LLAMA.heads, link=50e9):
    """(GPUs, hidden): the least power of two that fits, and whether the ring hides there."""
    ranks = 1
    while MILLION / ranks * KEPT * layers > budget:
        ranks *= 2
    return ranks, MILLION / ranks >= sharing * gpu("h100-sxm").peak_flops("bf16") / link


EXERCISES = (
    Exercise(
        "crossover",
        answer=lambda: crossing(),
        unit="tokens",
        tolerance=0.001,
        mistakes=(
            (
                lambda: 6 * QWEN.hidden,
                "That is 6h, the rule for a GPT. This layer has a gated MLP of 5 h, 8 key/value "
                "heads, and heads that are 1.6 times as wide as the model.",
            ),
            (
                lambda: crossing(width=QWEN.hidden),
                "You took the scores as wide as the model. 64 heads of 128 are 8192 wide, and it "
                "is they that meet the keys.",
            ),
            (
                lambda: crossing(kv_heads=QWEN.heads),
                "You gave keys and values 64 heads. They have 8, so their two matrices are "
                "5120 x 1024.",
            ),
            (
                lambda: crossing(matrices=2),
                "The MLP is gated: three matrices of 5120 x 25600, not two.",
            ),
            (
                lambda: 2 * crossing(),
                "Twice too far: a token's query meets the keys, and its scores meet the values. "
                "Two products of attention, or you counted causal pairs.",
            ),
            (
                lambda: crossing() / 2,
                "Half as far: a multiply-add is two FLOPs for the weights too.",
            ),
            (
                lambda: crossing(outer=QWEN.vocab * QWEN.hidden / QWEN.layers),
                "That includes the head. The layers alone are asked for.",
            ),
        ),
        because="5.8 h: grouping and wide heads move it down, the wide MLP up, and it ends near 6h "
        "by accident.",
    ),
    Exercise(
        "tokens",
        answer=lambda: rates(),
        unit="tokens/s",
        mistakes=(
            (
                lambda: rates(pairs=0),
                "You divided by 6N alone: then the longer run looks faster. The paper's FLOPs "
                "include 12 L h s for attention.",
            ),
            (
                lambda: rates(pairs=6),
                "You halved attention. The rates are of all pairs (section 4.3), so the FLOPs of a "
                "token must be as well.",
            ),
            (
                lambda: rates(factor=2, pairs=4),
                "2N + 4Lhs is the forward pass. The rates are of training: three times that.",
            ),
            (
                lambda: rates()[::-1],
                "The two are swapped: first 2,048 tokens, then 8,192.",
            ),
            (
                lambda: tuple(rate / 1e12 for rate in rates()),
                "A TFLOP is 10¹² FLOP: multiply the rates by 1e12.",
            ),
            (
                lambda: tuple(8 * rate for rate in rates()),
                "The table gives the rate of one GPU; tokens per second of one are asked for.",
            ),
        ),
        because="The rate rises by an eighth and the tokens fall by a fifth: a token at 8,192 "
        "costs 1.4 times as much.",
    ),
    Exercise(
        "eager",
        answer=lambda: kept(),
        tolerance=0,
        mistakes=(
            (
                lambda: (6, kept(mask=False)[1]),
                "6 bytes per score is a Llama's. GPT-2 drops attention weights and keeps the mask.",
            ),
            (
                lambda: (9, kept(before=True)[1]),
                "One tensor too many: dropout keeps its mask and not its input, so the bf16 "
                "weights before it are free again.",
            ),
            (
                lambda: kept(scores=True, after=False),
                "The sum is right. But a softmax needs its output to go back, not its input, and "
                "the product with the values needs what meets them.",
            ),
            (
                lambda: kept(before=True, after=False),
                "The sum is right. What meets the values are the weights after dropout.",
            ),
            (
                lambda: (8, kept()[1]),
                "8 bytes would be a mask as wide as bf16, which is what the CPU keeps. Divide the "
                "snapshot's bytes by the scores.",
            ),
            (
                lambda: (7 * 48, kept()[1]),
                "You left out the layers: all 48 wait for the backward pass at once.",
            ),
        ),
        because="4 + 1 + 2: more than all of the model's state, and gone with flash attention.",
    ),
    Exercise(
        "cache",
        answer=lambda: cache(),
        unit="GB",
        mistakes=(
            (
                lambda: cache(full=62, sliding=0),
                "You kept every token in all 62 layers. 52 of them look 1,024 tokens back and need "
                "no more.",
            ),
            (
                lambda: cache(sliding=0),
                "The 10 full layers alone. The other 52 keep 1,024 tokens each.",
            ),
            (
                lambda: cache(full=0, sliding=62),
                "You gave every layer a window. 10 of the 62 keep all 131,072 tokens.",
            ),
            (
                lambda: cache(full=52, sliding=10),
                "The other way round: 52 layers slide, 10 see everything.",
            ),
            (lambda: cache(tensors=1), "Keys or values: a cache holds both."),
            (
                lambda: cache(heads=GEMMA.heads),
                "You took the 32 query heads. Only the 16 key/value heads are kept.",
            ),
            (lambda: cache(unit=GIB), "The right bytes, in GiB. GB are asked for: 10⁹ bytes."),
        ),
        because="A sixth of the 66.6 GB without windows, nearly all of it in ten layers.",
    ),
    Exercise(
        "ring",
        answer=lambda: ring(),
        tolerance=0,
        mistakes=(
            (
                lambda: (ring()[0], not ring()[1]),
                "The GPUs are right. Each holds 4,096 tokens; hold them against (k/a) F/B, with 8 "
                "of 32 heads, 989 TFLOP/s and 50 GB/s.",
            ),
            (
                lambda: (203, ring(40 * GB)[1]),
                "203 would fit, but the context degree must be a power of two here.",
            ),
            (
                lambda: (ring()[0] // 2, True),
                "One doubling short: 128 GPUs would keep 63.4 GB each.",
            ),
            (
                lambda: ring(layers=1),
                "That is one layer. All 32 are kept until the backward pass.",
            ),
        ),
        because="4,096 tokens each, and 4,945 would hide it: the links between nodes wait, though "
        "NVLink would not. The causal mask makes it worse.",
    ),
)
