"""Lab 01, counting parameters: what is right, and what each known mistake leads to."""

from ...architecture.model import Model
from ...units import GB, GIB
from ..exercise import Exercise

MIXTRAL = Model("mixtral-8x22b").parameters
QWEN = Model("qwen2.5-7b")
EXPERTS = Model("qwen3-235b-a22b")


def sizes(parameters, width=2):
    """(GB, GiB) of a checkpoint of `parameters` numbers, `width` bytes each."""
    return parameters * width / GB, parameters * width / GIB


def without_biases():
    return QWEN.parameters.total - biases(QWEN.heads + 2 * QWEN.kv_heads)


def plain_mlp():
    """Qwen2.5-7B with two matrices in its MLP instead of three."""
    return QWEN.parameters.total - QWEN.layers * QWEN.hidden * QWEN.ffn


def biases(outputs):
    """Elements of biases as wide as this number of Qwen2.5-7B's heads, over all layers."""
    return QWEN.layers * QWEN.head_dim * outputs


def gpt3_row(attention_width, tables=1):
    """Billions of parameters of the row '1.3B' of GPT-3's table 2.1: 24 layers of width 2048."""
    hidden, layers, vocab, positions = 2048, 24, 50257, 2048
    layer = 4 * hidden * attention_width + 8 * hidden**2
    return (layers * layer + tables * vocab * hidden + bool(tables) * positions * hidden) / 1e9


def whole_layers(budget, layer, outside):
    return int((budget - outside) // layer)


def llama_layer(h, heads, kv_heads, head_dim, ffn, matrices=3):
    return 2 * h * head_dim * (heads + kv_heads) + matrices * h * ffn + 2 * h


def layers(budget, h, vocab, heads, kv_heads, head_dim, ffn):
    return whole_layers(budget, llama_layer(h, heads, kv_heads, head_dim, ffn), 2 * vocab * h + h)


def layers_and_a_part(budget, h, vocab, heads, kv_heads, head_dim, ffn):
    return (budget - 2 * vocab * h - h) / llama_layer(h, heads, kv_heads, head_dim, ffn)


def layers_rounded(*shape):
    return round(layers_and_a_part(*shape))


def layers_rounded_up(*shape):
    return layers(*shape) + 1


def layers_without_tables(budget, h, vocab, heads, kv_heads, head_dim, ffn):
    return whole_layers(budget, llama_layer(h, heads, kv_heads, head_dim, ffn), h)


def layers_tied(budget, h, vocab, heads, kv_heads, head_dim, ffn):
    return whole_layers(budget, llama_layer(h, heads, kv_heads, head_dim, ffn), vocab * h + h)


def layers_without_norms(budget, h, vocab, heads, kv_heads, head_dim, ffn):
    layer = llama_layer(h, heads, kv_heads, head_dim, ffn) - 2 * h
    return whole_layers(budget, layer, 2 * vocab * h + h)


def layers_by_rule(budget, h, vocab, *heads_and_ffn):
    return whole_layers(budget, 12 * h * h, 2 * vocab * h + h)


def layers_ungated(budget, h, vocab, heads, kv_heads, head_dim, ffn):
    layer = llama_layer(h, heads, kv_heads, head_dim, ffn, matrices=2)
    return whole_layers(budget, layer, 2 * vocab * h + h)


def layers_ungrouped(budget, h, vocab, heads, kv_heads, head_dim, ffn):
    return layers(budget, h, vocab, heads, heads, head_dim, ffn)


def billions(model):
    return model.parameters.total / 1e9, model.parameters.active / 1e9


EXERCISES = (
    Exercise(
        "download",
        answer=lambda: sizes(MIXTRAL.total),
        mistakes=(
            (
                lambda: sizes(MIXTRAL.total)[::-1],
                "The two are swapped. A GiB is the larger unit, so the same bytes are fewer GiB "
                "than GB.",
            ),
            (
                lambda: (sizes(MIXTRAL.total)[0],) * 2,
                "The first is right; the second is still in GB. A GiB is 2**30 bytes, not 1e9.",
            ),
            (
                lambda: (sizes(MIXTRAL.total)[0], sizes(MIXTRAL.total)[0] * GIB / GB),
                "The first is right; the second went the wrong way. Divide the bytes by 2**30: a "
                "larger unit, a smaller number.",
            ),
            (
                lambda: sizes(8 * 22e9),
                "8 x 22 B is what the name says. The eight experts share attention, norms and "
                "tables, so the model holds 141 B and not 176 B.",
            ),
            (
                lambda: sizes(MIXTRAL.active),
                "These are the active parameters. A token meets 39 B of them, but which ones "
                "changes from token to token: all 141 B are in the file.",
            ),
            (
                lambda: sizes(MIXTRAL.total, width=4),
                "That is 4 bytes per parameter, fp32. bf16 takes 2.",
            ),
            (
                lambda: sizes(MIXTRAL.total, width=1),
                "That is 1 byte per parameter, as in fp8. bf16 takes 2.",
            ),
        ),
        because="7 % apart, the same bytes. Two bytes per parameter, all experts counted.",
    ),
    Exercise(
        "biases",
        answer=lambda: QWEN.parameters.total,
        unit="parameters",
        tolerance=0,
        mistakes=(
            (
                without_biases,
                "All that is missing are the biases: Qwen2 adds one number to each output of the "
                "query, key and value matrices.",
            ),
            (
                7.61e9,
                "That is the card's rounded figure. Count it exactly, from the config.",
            ),
            (
                lambda: without_biases() + QWEN.heads * QWEN.head_dim + 8 * QWEN.head_dim,
                "You added the biases once. Each of the 28 layers has its own.",
            ),
            (
                lambda: without_biases() + QWEN.layers * (QWEN.heads + 2 * QWEN.kv_heads),
                "You gave a head one bias. It has 128: one for each output of its matrix.",
            ),
            (
                lambda: QWEN.parameters.total + QWEN.layers * (2 * QWEN.ffn + QWEN.hidden),
                "You gave the MLP biases. Qwen2 has them on queries, keys and values only.",
            ),
            (
                lambda: QWEN.parameters.total + biases(QWEN.heads),
                "You gave the output matrix a bias too. Qwen2 has biases on queries, keys and "
                "values only.",
            ),
            (
                lambda: QWEN.parameters.total + biases(2 * (QWEN.heads - QWEN.kv_heads)),
                "The biases of keys and values are too wide: they are as wide as the 4 key/value "
                "heads, 512, not as the 28 query heads.",
            ),
            (
                lambda: QWEN.replace(tie_word_embeddings=True).parameters.total,
                "One table is missing. `tie_word_embeddings` is false: the head is a second "
                "matrix of 152,064 x 3584.",
            ),
            (
                lambda: QWEN.parameters.non_embedding,
                "These are the layers alone, the 6.53 B that the card calls non-embedding. The "
                "token table and the head are parameters as well.",
            ),
            (
                lambda: QWEN.replace(num_key_value_heads=QWEN.heads).parameters.total,
                "You counted 28 key/value heads. There are 4: keys and values have 3584 x 512 "
                "weights each, queries 3584 x 3584.",
            ),
            (
                plain_mlp,
                "The MLP is gated: three matrices of 3584 x 18944 (gate, up, down), not two.",
            ),
            (
                lambda: QWEN.parameters.total - QWEN.hidden,
                "3584 short: after the last layer stands one more norm.",
            ),
            (
                lambda: QWEN.parameters.total - QWEN.parameters.norm,
                "The norms are missing: two scales of 3584 a layer, and one after the last layer.",
            ),
            (
                lambda: QWEN.parameters.total + QWEN.parameters.norm,
                "The norms count double: an RMS norm has a scale and no shift.",
            ),
        ),
        because="The card rounds it to 7.61 B. In bf16 it is 15.2 GB, not the 14 that '7B' "
        "suggests.",
    ),
    Exercise(
        "misprint",
        answer=lambda: gpt3_row(24 * 128),
        unit="B",
        tolerance=0.02,
        mistakes=(
            (
                lambda: gpt3_row(2048),
                "That is the table's 1.3 B, or 4h² for the attention, as if the heads filled the "
                "width of 2048: 1.32 B. As printed, 24 heads of 128 are 3072 wide.",
            ),
            (
                lambda: gpt3_row(2048, tables=0),
                "That is 12Lh²: it takes 4h² for the attention, as if the heads filled the width "
                "of 2048, and leaves the tables out.",
            ),
            (
                lambda: gpt3_row(3072 * 3072 / 2048),
                "You took four matrices of 3072 x 3072. Each has one side on the model's width: "
                "2048 x 3072.",
            ),
            (
                lambda: 24 * 12 * 3072**2 / 1e9 + (50257 + 2048) * 3072 / 1e9,
                "You made the whole model 3072 wide. Its vectors stay at 2048; only queries, keys "
                "and values are 3072 wide.",
            ),
            (
                lambda: gpt3_row(24 * 128, tables=0),
                "These are the layers alone. The table of 50,257 tokens and 2048 positions adds "
                "0.11 B.",
            ),
            (
                lambda: gpt3_row(24 * 128, tables=2),
                "You counted the token table twice. GPT-3, like GPT-2, uses it for the head again.",
            ),
            (
                lambda: 1e9 * gpt3_row(24 * 128),
                "The right count, but asked for in billions.",
            ),
            (
                lambda: gpt3_row(24 * 128) - 24 * 3 * 2048 * (24 * 128 - 2048) / 1e9,
                "You widened one matrix of four. Queries, keys and values all lead from 2048 to "
                "3072, and the output leads back.",
            ),
            (
                lambda: gpt3_row(24 * 128) - 24 * 2048 * (24 * 128 - 2048) / 1e9,
                "You widened three matrices of four. The output matrix leads from 3072 back to "
                "2048.",
            ),
        ),
        because="The table prints 1.3 B, so its 24 is a misprint: 16 heads of 128 fill the width "
        "of 2048 and give 1.32 B.",
    ),
    Exercise(
        "budget",
        answer=layers,
        tolerance=0,
        inputs=(
            (1_100_000_000, 2048, 32000, 32, 4, 64, 5632),
            (7_000_000_000, 4096, 32000, 32, 32, 128, 11008),
            (1_000_000_000, 2048, 128256, 32, 8, 64, 8192),
        ),
        mistakes=(
            (
                layers_and_a_part,
                "A model has whole layers: round down, with `//` or `int(...)`.",
            ),
            (
                layers_rounded,
                "Rounding to the nearest goes over the budget: 21.999 layers fit 21 times.",
            ),
            (layers_rounded_up, "One layer too many: rounding up goes over the budget."),
            (
                layers_without_tables,
                "The budget pays for the token table and the head before the first layer: "
                "subtract 2 x vocab x h.",
            ),
            (
                layers_tied,
                "The head is untied, so there are two matrices of vocab x h: you subtracted one.",
            ),
            (
                layers_without_norms,
                "Each layer has two norms of h: small, and the first input turns on them.",
            ),
            (
                layers_by_rule,
                "12h² is a layer with a plain MLP of 4h and as many key/value heads as heads.",
            ),
            (layers_ungated, "A gated MLP has three matrices of h x ffn: you counted two."),
            (
                layers_ungrouped,
                "Keys and values have `kv_heads` heads, not `heads`: your layers are too large.",
            ),
        ),
        because="TinyLlama's 22 layers make 1.100048 B: 0.004 % above its name, so 21 fit. With "
        "128 k tokens the tables eat more than half of 1 B.",
    ),
    Exercise(
        "hub",
        answer="rotary",
        mistakes=(
            (
                "heads",
                "Two numbers a head and layer fit the 7b (2 x 32 x 32 = 2048), but the 13b would "
                "have 2 x 40 x 40 = 3200. One model is no test of a formula.",
            ),
            (
                "norms",
                "A shift in each norm is 65 x 4096 = 266,240 numbers in the 7b, not 2048.",
            ),
            (
                "padding",
                "One more token is a row of 4096 in each of two tables: 8192 in the 7b.",
            ),
            (
                "positions",
                "A position table has 4096 rows of 4096: 16.8 M numbers. Llama has none.",
            ),
        ),
        because="layers x head_dim / 2 fits all three: 2048, 2560, 5120. Old checkpoints store "
        "these constants with each layer; nothing trains them.",
    ),
    Exercise(
        "experts",
        answer=lambda: billions(EXPERTS),
        unit="B",
        tolerance=0.002,
        mistakes=(
            (
                lambda: billions(EXPERTS)[::-1],
                "The two are swapped: the total comes first, then what a token meets.",
            ),
            (
                lambda: billions(EXPERTS.replace(moe_intermediate_size=EXPERTS.ffn)),
                "`intermediate_size`, 12288, is the width of a dense layer, and this model has "
                "none. Its experts are `moe_intermediate_size`, 1536, wide.",
            ),
            (
                lambda: (EXPERTS.parameters.total / 1e9,) * 2,
                "The total is right. Active are 8 experts of 128 in each layer, and everything "
                "that is no expert.",
            ),
            (
                lambda: (EXPERTS.parameters.total / 1e9, EXPERTS.parameters.total / 16e9),
                "The total is right. Only the experts shrink to 8/128: attention and tables work "
                "for every token.",
            ),
            (
                lambda: billions(EXPERTS.replace(head_dim=64)),
                "The heads are 128 wide, as the config says, and not hidden / heads = 64: 64 heads "
                "make 8192, twice the width of the model.",
            ),
            (
                lambda: billions(EXPERTS.replace(tie_word_embeddings=True)),
                "The head is missing: it is untied, 151,936 x 4096 = 0.62 B.",
            ),
            (
                lambda: (
                    EXPERTS.parameters.total / 1e9,
                    (EXPERTS.parameters.active - EXPERTS.parameters.embedding) / 1e9,
                ),
                "The total is right, and the second leaves the token table out. Some papers count "
                "so; Mixtral's 12.9 B and this course include it.",
            ),
            (
                lambda: (
                    EXPERTS.parameters.total / 1e9,
                    EXPERTS.replace(num_experts_per_tok=1).parameters.active / 1e9,
                ),
                "The total is right. The second has one expert per token: there are 8.",
            ),
            (
                lambda: (
                    EXPERTS.parameters.total / 1e9,
                    (EXPERTS.parameters.active - EXPERTS.parameters.router) / 1e9,
                ),
                "The router is missing: 128 x 4096 a layer, too little to see in the total, 0.2 % "
                "of the active.",
            ),
            (
                lambda: billions(EXPERTS.replace(num_key_value_heads=64)),
                "You counted 64 key/value heads. There are 4.",
            ),
            (
                lambda: tuple(
                    billions - experts * EXPERTS.layers * EXPERTS.hidden * 1536 / 1e9
                    for billions, experts in zip(billions(EXPERTS), (128, 8), strict=True)
                ),
                "An expert is a gated MLP: three matrices of 4096 x 1536, not two.",
            ),
            (
                (235, 22),
                "Those are the card's rounded figures. Compute them from the config.",
            ),
            (
                lambda: (EXPERTS.parameters.total, EXPERTS.parameters.active),
                "The right counts, but asked for in billions.",
            ),
        ),
        because="The card's 235 B and 22 B. 97 % of the weights are experts, and a token meets one "
        "in sixteen of them.",
    ),
)
