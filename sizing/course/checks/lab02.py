"""Lab 02, compute: what is right, and what each known mistake leads to."""

import math

from ...architecture.model import Model
from ...compute import flops, matmuls, palm, six_nd
from ...hardware import gpu
from ...run import Run
from ...units import DAY
from ..exercise import Exercise

PYTHIA = Run("pythia-410m", sequence=2048, micro_batch=1024)
COUNT = PYTHIA.model.parameters
MULTIPLIED = COUNT.total - COUNT.embedding
LLAMA = Model("llama-3.1-8b")
MATRICES = LLAMA.parameters.total - LLAMA.parameters.embedding - LLAMA.parameters.norm
LONG = 131072
PEAK, RIDGE = gpu("h100-sxm").peak_flops("bf16"), gpu("h100-sxm").ridge("bf16")
OFFERS = {  # GPUs, their name in data/gpus.csv, the bf16 TFLOP/s that a brochure prints, MFU
    "A": (24, "b200-sxm", 4500, 0.40),
    "B": (160, "a100-sxm-80gb", 312, 0.45),
    "C": (64, "h100-sxm", 989, 0.45),
    "D": (64, "mi300x", 1307, 0.26),
}


def petaflops(parameters, scores=1.0):
    """PFLOP of the step if a token met `parameters` weights, and this multiple of the scores."""
    pairs = palm(0, PYTHIA.model, PYTHIA.sequence, PYTHIA.tokens)
    return (six_nd(parameters, PYTHIA.tokens) + scores * pairs) / 1e15


def score_share(attention):
    """Percent of a step's FLOPs in queries x keys and scores x values, by a convention."""
    products = matmuls(LLAMA, LONG, attention)
    scores = sum(product.flops for product in products if product.part == "scores")
    return 100 * scores / sum(product.flops for product in products)


def shares(matrices=MATRICES, heads=LLAMA.heads, layers=LLAMA.layers):
    """Both shares from the formula, for mistakes in its parts."""
    full = 4 * LONG * heads * LLAMA.head_dim * layers
    return tuple(100 * scores / (scores + 2 * matrices) for scores in (full, full / 2))


def mfu(parameters, layers, width, sequence, tokens_per_second, peak, factor=6, pairs=12):
    """MFU by PaLM's definition (arXiv:2204.02311, appendix B); the factors make the mistakes."""
    per_token = factor * parameters + pairs * layers * width * sequence
    return per_token * tokens_per_second / peak


def nodes(per_parameter=6, peak=PEAK, utilisation=0.4):
    """Nodes of eight GPUs that train Chinchilla in 30 days, with a fraction."""
    work = per_parameter * 70e9 * 1.4e12
    return work / (8 * peak * utilisation * 30 * DAY)


def deadline(whole=math.ceil, size=1, **count):
    """(nodes at 40 % MFU, nodes at 32 %, days late with the former at 36 %)."""
    planned, safe = (whole(size * nodes(utilisation=u, **count)) for u in (0.40, 0.32))
    return planned, safe, 30 * size * nodes(utilisation=0.36, **count) / planned - 30


def fewest_tokens(ridge=RIDGE, activations=2, width=4096):
    """Tokens t at which t·w² / (w² + activations·t·w) reaches the ridge, rounded up."""
    return math.ceil(ridge * width / (width - activations * ridge))


def best_offer(worth):
    """The offer that is worth most: worth(count, dense peak, brochure's peak, mfu)."""
    return max(
        OFFERS,
        key=lambda offer: worth(
            OFFERS[offer][0], gpu(OFFERS[offer][1]).peak_flops("bf16"), *OFFERS[offer][2:]
        ),
    )


EXERCISES = (
    Exercise(
        "step",
        answer=lambda: flops(PYTHIA).total / 1e15,
        unit="PFLOP",
        tolerance=0.001,
        mistakes=(
            (
                lambda: flops(PYTHIA).total,
                "The right FLOPs, but asked for in PFLOP: divide by 1e15.",
            ),
            (
                lambda: flops(PYTHIA).total / PYTHIA.sequences / 1e15,
                "That is one sequence. The step has 1024 of them.",
            ),
            (
                lambda: flops(PYTHIA).forward / 1e15,
                "That is the forward pass. The backward pass costs twice as much again: a step is "
                "three forwards.",
            ),
            (
                lambda: 2 * flops(PYTHIA).forward / 1e15,
                "You counted one product for each in the backward pass. There are two: the "
                "gradient of the input and the gradient of the weight.",
            ),
            (
                lambda: 4 * flops(PYTHIA).forward / 1e15,
                "A fourth forward is activation recomputation. Nothing is recomputed here.",
            ),
            (
                lambda: flops(PYTHIA).total / 2e15,
                "Half of it: a multiply-add is two FLOPs.",
            ),
            (
                lambda: petaflops(MULTIPLIED + PYTHIA.model.layers * 1024 * 4096),
                "Pythia's MLP has no gate: two matrices of 1024 x 4096, not three.",
            ),
            (
                lambda: petaflops(MULTIPLIED, scores=PYTHIA.sequence),
                "The scores are counted too often: 4 x s x s x width is a sequence's, 4 x s x "
                "width a token's.",
            ),
            (
                lambda: petaflops(MULTIPLIED, scores=1 / PYTHIA.model.heads),
                "The scores are those of one head. There are 16, together as wide as the model.",
            ),
            (
                lambda: six_nd(COUNT.total, PYTHIA.tokens) / 1e15,
                "6ND with all 405 M parameters: it leaves the attention scores out and counts a "
                "token table that is only looked up. The errors pull apart; 11 % remain.",
            ),
            (
                lambda: petaflops(MULTIPLIED, scores=0),
                "The matrices are right. What is missing are the two products of attention that "
                "have no weights: queries x keys and scores x values.",
            ),
            (
                lambda: six_nd(COUNT.non_embedding, PYTHIA.tokens) / 1e15,
                "These are the layers' matrices alone. The head is multiplied too, and so are "
                "queries x keys and scores x values.",
            ),
            (
                lambda: petaflops(COUNT.total),
                "You counted the token table as if it were multiplied. A row of it is looked up, "
                "which costs no FLOPs; the untied head is a product.",
            ),
            (
                lambda: petaflops(COUNT.non_embedding),
                "The head is missing: 1024 x 50,304 weights that every token is multiplied with.",
            ),
            (
                lambda: petaflops(MULTIPLIED, scores=0.5),
                "Half of the attention is missing: either one of its two products, or the pairs "
                "above the diagonal. The course counts all s x s pairs unless it says causal.",
            ),
        ),
        because="FlopCounterMode would count the same on the real model. 6ND says 11 % less.",
    ),
    Exercise(
        "context",
        answer=lambda: (score_share("full"), score_share("causal")),
        unit="%",
        mistakes=(
            (
                lambda: tuple(share / 100 for share in shares()),
                "The right shares, but asked for in percent.",
            ),
            (
                lambda: shares()[::-1],
                "The two are swapped: causal pairs are fewer, so their share is smaller.",
            ),
            (
                lambda: (shares()[0], shares()[0] / 2),
                "The first is right. Half of the pairs is not half of the share: halve the FLOPs "
                "of the scores, then divide by the new, smaller total.",
            ),
            (
                lambda: shares(MATRICES / 3),
                "You counted the scores of a whole step against one forward of the matrices.",
            ),
            (
                lambda: shares(3 * MATRICES),
                "You counted one forward of the scores against a whole step of the matrices: the "
                "backward pass doubles both.",
            ),
            (
                lambda: shares(MATRICES * 16),
                "That is at 8192 tokens. Asked for is 131,072.",
            ),
            (
                lambda: shares(2 * MATRICES),
                "A factor of 2 is lost. Attention has two products, queries x keys and scores x "
                "values, and a multiply-add is two FLOPs: 4 x s x heads x head_dim a token and "
                "layer.",
            ),
            (
                lambda: shares(heads=LLAMA.kv_heads),
                "You counted 8 heads. Keys and values are shared by groups, but each of the 32 "
                "query heads computes its own scores: GQA saves memory here, not FLOPs.",
            ),
            (
                lambda: shares(layers=1),
                "32 times too few scores: one head, or one layer, against the matrices of all.",
            ),
            (
                lambda: shares(LLAMA.parameters.total),
                "2 FLOPs for each of 8.03 B parameters counts the token table as if it were "
                "multiplied: 0.53 B too many.",
            ),
            (
                lambda: shares(MATRICES - LLAMA.parameters.head),
                "The head is missing: 4096 x 128,256 weights that every token is multiplied with.",
            ),
            (
                lambda: tuple(100 * share / (100 - share) for share in shares()),
                "You divided by the FLOPs of the matrices. A share divides by the sum of both.",
            ),
        ),
        because="At 8192 tokens they are 22 % and 13 %. For the same step at 128 k one paper can "
        "report 1.7 times the FLOPs of another, and 1.7 times the MFU.",
    ),
    Exercise(
        "mfu",
        answer=mfu,
        tolerance=0.005,
        inputs=(
            (540.35e9, 118, 12288, 2048, 238_300, 6144 * 275e12),
            (530e9, 105, 20480, 2048, 65_430, 2240 * 312e12),
            (6.738e9, 32, 4096, 4096, 3014, 312e12),
        ),
        mistakes=(
            (
                lambda *row: 100 * mfu(*row),
                "The right values, as percent: an MFU of 46 % is 0.46, as formulas need it.",
            ),
            (
                lambda *row: mfu(*row, pairs=0),
                "6N leaves attention out. PaLM's definition adds 12 x layers x width x sequence: "
                "little in the first two, a seventh of the third.",
            ),
            (
                lambda *row: mfu(*row, factor=8, pairs=16),
                "You counted a recomputed forward: that is HFU. MFU holds only what the model "
                "needs against the peak, 6N and 12 LHQT.",
            ),
            (
                lambda *row: mfu(*row, factor=8),
                "8N counts a recomputed forward: that is HFU. MFU has 6N.",
            ),
            (
                lambda *row: mfu(*row, factor=2, pairs=4),
                "That is the forward pass. The backward pass costs twice as much again: factor 3.",
            ),
            (
                lambda *row: mfu(*row, pairs=6),
                "6 x layers x width x sequence is the causal convention, half of the pairs. "
                "PaLM's counts them all: 12.",
            ),
            (
                lambda *row: mfu(*row, pairs=4),
                "The scores are those of the forward pass, 4 x layers x width x sequence. The "
                "backward pass has twice as many again: 12.",
            ),
            (
                lambda *row: mfu(*row) / 2,
                "Half of it: is your peak the sparse one, or a multiply-add one FLOP?",
            ),
            (
                lambda *row: 1 / mfu(*row),
                "Upside down: FLOP/s done over FLOP/s possible.",
            ),
        ),
        because="46.2 % and 30.3 %: PaLM's paper prints 46.2 and, for MT-NLG, 30.2. MT-NLG's own "
        "126 TFLOP/s are 40 % of the peak because they count recomputation.",
    ),
    Exercise(
        "nodes",
        answer=lambda: deadline(),
        tolerance=0.005,
        mistakes=(
            (
                lambda: deadline(math.floor),
                "Rounded down: 71 nodes need 30.3 days and miss the deadline.",
            ),
            (
                lambda: deadline(lambda nodes: nodes),
                "You cannot rent a part of a node: round up.",
            ),
            (
                lambda: deadline(size=8),
                "These are GPUs. Asked for are nodes of eight.",
            ),
            (
                lambda: deadline(peak=2 * PEAK),
                "Your peak is the sparse one, 1979 TFLOP/s. Training multiplies dense matrices: "
                "989.",
            ),
            (
                lambda: deadline(per_parameter=2),
                "2ND is the forward pass. Training takes 6: the backward pass costs twice as much "
                "again.",
            ),
            (
                lambda: (deadline()[0], math.ceil(nodes(utilisation=0.47)), deadline()[2]),
                "The second is for the best of the published runs. A date is kept by planning for "
                "the worst.",
            ),
            (
                lambda: (*deadline()[:2], 30 * (1 - 0.36 / 0.4)),
                "The third: a tenth less speed is a ninth more time, on nodes rounded up.",
            ),
            (
                lambda: (*deadline()[:2], deadline()[2] + 30),
                "The third is the whole run. How late is it after 30 days?",
            ),
        ),
        because="A plan without a margin is a plan for the luckiest half of runs.",
    ),
    Exercise(
        "tokens",
        answer=lambda: fewest_tokens(),
        unit="tokens",
        tolerance=0,
        mistakes=(
            (
                lambda: fewest_tokens() - 1,
                "One too few: rounding down stays below the ridge.",
            ),
            (
                lambda: fewest_tokens(activations=0),
                "That is the ridge itself. It would do if only the weights were moved; the input "
                "and the output, t x 4096 each, are read and written too.",
            ),
            (
                lambda: fewest_tokens(activations=1),
                "One of the two activations is missing: the input is read and the output written.",
            ),
            (
                lambda: fewest_tokens(ridge=2 * RIDGE),
                "A factor of 2 is lost: the sparse peak instead of the dense, 4 bytes a number "
                "instead of 2, or one FLOP a multiply-add instead of two.",
            ),
            (
                lambda: fewest_tokens(ridge=RIDGE / 2),
                "A factor of 2 is won: 1 byte a number instead of 2, or half the peak.",
            ),
            (
                lambda: RIDGE * 4096 / (4096 - 2 * RIDGE),
                "The right place, but a token is whole: round up.",
            ),
        ),
        because="Training sends thousands of tokens at once and is safe. Generating one token for "
        "each of fewer than 345 sequences waits for memory here.",
    ),
    Exercise(
        "offer",
        answer=lambda: best_offer(lambda count, dense, printed, mfu: count * dense * mfu),
        mistakes=(
            (
                lambda: best_offer(lambda count, dense, printed, mfu: count * printed * mfu),
                "4500 TFLOP/s are with sparsity, which training does not use. Dense, a B200 has "
                "half of it, and the offer 21.6 PFLOP/s in use.",
            ),
            (
                lambda: best_offer(lambda count, dense, printed, mfu: count),
                "Most GPUs, but slow ones: 160 x 312 x 0.45 are 22.5 PFLOP/s in use.",
            ),
            (
                lambda: best_offer(lambda count, dense, printed, mfu: count * dense),
                "The highest peak, 84 PFLOP/s, of which a quarter is used: 21.8. A peak that is "
                "not reached trains nothing.",
            ),
        ),
        because="28.5 PFLOP/s in use, against 21.6, 22.5 and 21.8.",
    ),
)
