"""Lab 05, where the memory goes: what is right, and what each known mistake leads to."""

from dataclasses import replace
from functools import cache

from ...architecture.model import Model
from ...footprint.step import memory
from ...run import Run
from ...units import GB, GIB
from ..exercise import Exercise

LLAMA = Model("llama-3.1-8b")
BYTES = {"fp32": 4, "bf16": 2, "8 bits": 1, "-": 0}
RECIPES = {  # weights, gradients, master copy, each of two moments
    "A": ("bf16", "bf16", "-", "fp32"),
    "B": ("bf16", "bf16", "fp32", "bf16"),
    "C": ("fp32", "fp32", "-", "8 bits"),
    "D": ("fp32", "fp32", "-", "bf16"),
    "E": ("bf16", "bf16", "fp32", "fp32"),
    "F": ("bf16", "fp32", "fp32", "8 bits"),
}
READ = 20.98e9  # what the log of exercise 5 says
SMOL = Run("smollm2-360m", sequence=1024)
ADAPTERS = 167_772_160  # rank 64 on the seven linear layers of each of Llama-3.1-8B's 32 layers


def loss_gb(each, vocab=256_000, unit=GB):
    """The size of `each` bytes for 8 x 4096 tokens and every word."""
    return each * 8 * 4096 * vocab / unit


def layer(h, f, a, k, d, normed=2, width=4, key_heads=None):
    """Bytes a token that a Qwen3 layer keeps; `normed` tensors for each of the norms on q and k."""
    key_heads = k if key_heads is None else key_heads
    llama = 2 * (2 * h + 1) + h + (2 * a * d + 2 * k * d + a) + h + 4 * f
    norms = normed * (a + key_heads) * d + (a + key_heads if normed == 2 else 0)
    return width * (llama + norms)


def layer_of_llama(h, f, a, k, d):
    return layer(h, f, a, k, d, normed=0)


def layer_inputs_only(h, f, a, k, d):
    return layer(h, f, a, k, d, normed=1)


def layer_norms_of_width(h, f, a, k, d):
    return layer(h, f, a, k, d, normed=0) + 4 * 2 * (2 * h + 1)


def layer_keys_like_queries(h, f, a, k, d):
    return layer(h, f, a, k, d, key_heads=a)


def layer_in_bf16(h, f, a, k, d):
    return layer(h, f, a, k, d, width=2)


def layer_numbers(h, f, a, k, d):
    return layer(h, f, a, k, d, width=1)


def layer_without_statistics(h, f, a, k, d):
    return layer(h, f, a, k, d) - 4 * (a + k)


def peak(n, per_token, vocab, tokens):
    """Peak of an fp32 step with foreach AdamW: start of backward, or the update."""
    return max(start_of_backward(n, per_token, vocab, tokens), 20 * n)


def start_of_backward(n, per_token, vocab, tokens):
    return 12 * n + tokens * (per_token + 12 * vocab)


def peak_with_gradients(n, per_token, vocab, tokens):
    return max(16 * n + tokens * (per_token + 12 * vocab), 20 * n)


def peak_without_foreach(n, per_token, vocab, tokens):
    return max(start_of_backward(n, per_token, vocab, tokens), 16 * n)


def peak_one_copy_of_logits(n, per_token, vocab, tokens):
    return max(12 * n + tokens * (per_token + 4 * vocab), 20 * n)


def peak_without_logits(n, per_token, vocab, tokens):
    return max(12 * n + tokens * per_token, 20 * n)


def all_added(n, per_token, vocab, tokens):
    return 20 * n + tokens * (per_token + 12 * vocab)


def state_and_all(n, per_token, vocab, tokens):
    return 16 * n + tokens * (per_token + 12 * vocab)


def recipes(moments=2, each=12):
    """Which of RECIPES hold `each` bytes per parameter."""
    return {
        name: sum(BYTES[part] for part in parts) + (moments - 1) * BYTES[parts[-1]] == each
        for name, parts in RECIPES.items()
    }


@cache
def read_back():
    """(sequences within half a per cent of the reading, verdict of one more, of two more)."""
    peaks = {batch: memory(replace(SMOL, micro_batch=batch)) for batch in range(1, 13)}
    (found,) = [batch for batch, m in peaks.items() if abs(m.total / READ - 1) < 0.005]
    return found, *(peaks[found + more].on("rtx-4090").verdict for more in (1, 2))


def by_the_rule():
    """The sequences whose sum by the rule of thumb is nearest to the reading."""
    runs = {batch: replace(SMOL, micro_batch=batch) for batch in range(1, 30)}
    return min(runs, key=lambda batch: abs(rule_of_thumb(runs[batch]) / READ - 1))


def rule_of_thumb(run):
    """16 bytes a parameter and the activations, nothing for the loss."""
    return 16 * run.model.parameters.total + memory(run).activations


def adapted(weights=2, adapters=12, logits=12, inputs=True, trained=ADAPTERS, tokens=2048):
    """GB at the start of backward of Llama-3.1-8B with adapters and full recompute."""
    frozen = weights * LLAMA.parameters.total
    kept = 2 * tokens * LLAMA.hidden * LLAMA.layers if inputs else 0
    return (frozen + adapters * trained + logits * tokens * LLAMA.vocab + kept) / GB


def without_recompute():
    run = Run(LLAMA, sequence=2048, precision="bf16")
    return memory(replace(run, lora=64)).total / GB


EXERCISES = (
    Exercise(
        "words",
        answer=lambda: (2, loss_gb(12)),
        tolerance=0.01,
        mistakes=(
            (
                lambda: (4, loss_gb(12)),
                "The second is right. 16.8 GB over 8 x 4096 x 256,000 numbers is 2 bytes each.",
            ),
            (
                lambda: (2, loss_gb(2)),
                "The first is right. 16.8 GB is the one matrix that the head makes; the loss makes "
                "three more of the same shape, in fp32.",
            ),
            (
                lambda: (2, loss_gb(4)),
                "The first is right. You counted one fp32 copy, the log-probabilities: the "
                "backward pass makes two gradients of the same shape.",
            ),
            (
                lambda: (2, loss_gb(8)),
                "The first is right. Of the three fp32 copies you counted two: kept are the "
                "log-probabilities, made are their gradient and the gradient of the logits.",
            ),
            (
                lambda: (2, loss_gb(6)),
                "The first is right. The three copies are fp32, 4 bytes each, in every precision "
                "recipe: the loss is computed in fp32.",
            ),
            (
                lambda: (2, loss_gb(14)),
                "You kept the bf16 logits as well. The model drops them when it returns the loss, "
                "and the caller keeps the loss alone.",
            ),
            (
                lambda: (2, loss_gb(12, unit=GIB)),
                "The second is in GiB. The post counts 16.8 in GB, 10⁹ bytes.",
            ),
            (
                lambda: (2, loss_gb(12, vocab=262_144)),
                "You read 256k as 262,144. Then the post's matrix would be 17.2 GB and not 16.8: "
                "its vocabulary has 256,000 words.",
            ),
        ),
        because="100 GB for the loss of one micro-batch, more than an H100 has: why fused and "
        "chunked losses exist.",
    ),
    Exercise(
        "recipe",
        answer=lambda: recipes(),
        mistakes=(
            (
                lambda: {name: name == "A" for name in RECIPES},
                "A is the blog's. Add up the others as well: a sum does not tell its parts.",
            ),
            (
                lambda: recipes() | {"B": False},
                "Add up B again: an fp32 master copy, and moments of half the size.",
            ),
            (
                lambda: recipes() | {"D": False},
                "Add up D again: no master copy, since the weights are fp32 themselves.",
            ),
            (
                lambda: recipes() | {"F": False},
                "Add up F again: both 8-bit moments together take 2 bytes.",
            ),
            (
                lambda: recipes(moments=1),
                "AdamW keeps two moments for each parameter: count both.",
            ),
            (
                lambda: recipes() | {"C": True},
                "C is 10 bytes: 8 bits are one byte, and there are two moments.",
            ),
        ),
        because="Four recipes of six: a figure in GB names none of them.",
    ),
    Exercise(
        "layer",
        answer=layer,
        unit="bytes a token",
        tolerance=0,
        inputs=(
            (1024, 3072, 16, 8, 128),
            (4096, 12288, 32, 8, 128),
            (2560, 9728, 32, 8, 128),
        ),
        mistakes=(
            (
                layer_of_llama,
                "That is a Llama layer. The two extra norms keep their inputs and normalised "
                "inputs: for the queries (a·d) and for the keys (k·d).",
            ),
            (
                layer_inputs_only,
                "One tensor for each norm: it keeps its input and the normalised input, and one "
                "number for each head.",
            ),
            (
                layer_norms_of_width,
                "These norms work on heads: a·d numbers of queries and k·d of keys, not h.",
            ),
            (
                layer_keys_like_queries,
                "The norm on the keys sees k heads, not a: grouped queries share them.",
            ),
            (
                layer_without_statistics,
                "Nearly: a norm also keeps one number for each vector that it normalises, here "
                "for each of the a + k heads.",
            ),
            (layer_in_bf16, "That is 2 bytes a number. In fp32 it is 4."),
            (layer_numbers, "Those are numbers. Each takes 4 bytes."),
        ),
        because="Two small norms of 256 weights: 12 to 25 % more activations than in a Llama.",
    ),
    Exercise(
        "peak",
        answer=peak,
        unit="bytes",
        tolerance=0.001,
        inputs=(
            (134_515_008, 1_344_600, 49_152, 512),
            (134_515_008, 1_344_600, 49_152, 8192),
            (1_235_814_400, 3_238_100, 128_256, 1024),
        ),
        mistakes=(
            (
                all_added,
                "You added everything up. When the optimizer makes its temporaries, activations "
                "and logits are long gone: the peak is the larger of the two moments.",
            ),
            (
                state_and_all,
                "You added everything up. At the start of the backward pass there are no "
                "gradients, and when all gradients are there, activations are gone.",
            ),
            (
                peak_with_gradients,
                "At the start of the backward pass there are no gradients yet: 12 bytes a "
                "parameter, not 16.",
            ),
            (
                start_of_backward,
                "That is the start of the backward pass. For few tokens the optimizer's step is "
                "larger: take the larger of the two.",
            ),
            (
                peak_without_foreach,
                "In the optimizer's step foreach AdamW adds 4 bytes a parameter to weights, "
                "gradients and moments: 20, not 16.",
            ),
            (
                peak_one_copy_of_logits,
                "Four bytes for each token and word are the log-probabilities. The two gradients "
                "of the same shape come on top: 12.",
            ),
            (
                peak_without_logits,
                "The loss is missing: 12 bytes for each token and word of the vocabulary.",
            ),
        ),
        because="512 tokens peak in the optimizer's step, 8192 at the start of backward: one "
        "model, two answers to 'what takes the memory?'.",
    ),
    Exercise(
        "fit",
        answer=lambda: read_back(),
        unit="sequences",
        tolerance=0,
        mistakes=(
            (
                lambda: (by_the_rule(), *read_back()[1:]),
                "The sequences come from 16 bytes per parameter and the activations. The loss is "
                "missing, and with it the real peak.",
            ),
            (
                lambda: (read_back()[0], "fits", "tight"),
                "The sequences are right. The verdict also counts the context and a reserve: ask "
                "`.on(...)`, not `.total`.",
            ),
            (
                lambda: (read_back()[0], "does not fit", "does not fit"),
                "The sequences are right. One more is below the card's limit: look again at the "
                "first verdict.",
            ),
            (
                lambda: (read_back()[0], "tight", "tight"),
                "The sequences are right. Two more are above the card's memory.",
            ),
        ),
        because="Each sequence costs the same; the verdict knows what else is on the card.",
    ),
    Exercise(
        "frozen",
        answer=adapted,
        unit="GB",
        tolerance=0.002,
        mistakes=(
            (
                lambda: adapted(adapters=0, logits=0, inputs=False),
                "Those are the frozen weights alone, and they are the post's 16 GB.",
            ),
            (
                lambda: adapted(logits=0),
                "The loss is missing: 12 bytes for each of 2048 tokens and 128,256 words, frozen "
                "or not.",
            ),
            (
                lambda: adapted(inputs=False),
                "Full recompute still keeps the input of each layer: 2 bytes x 4096 for each "
                "token and layer.",
            ),
            (
                lambda: adapted(adapters=0),
                "The adapters are missing: weights and two moments, all fp32.",
            ),
            (
                lambda: adapted(weights=4),
                "You counted the frozen weights in fp32. They are bf16.",
            ),
            (
                lambda: adapted(weights=12),
                "You gave the frozen weights gradients or moments. Nothing of the kind follows a "
                "frozen weight.",
            ),
            (
                lambda: adapted(logits=4),
                "The loss has three matrices of tokens x words in fp32: 12 bytes, not 4.",
            ),
            (
                without_recompute,
                "That is without recompute: frozen layers keep their activations. With recompute "
                "each keeps only its input.",
            ),
        ),
        because="A third more than the post's 16 GB, for one sequence of 2048 tokens; without "
        "recompute it is nearly twice as much.",
    ),
)
