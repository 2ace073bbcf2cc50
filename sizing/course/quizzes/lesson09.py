"""Questions of lesson 09: why tensor stays in a node, and (from lesson 07) what a batch costs."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "09.node",
        "Why does a larger batch per GPU not make tensor parallelism over two nodes cheap?",
        (
            (
                "What is sent grows with the tokens just as what is computed does.",
                "The tokens cancel in communication over computation: only width, degree, FLOP/s "
                "and bytes/s are left.",
            ),
            (
                "A larger batch does not fit.",
                "It may fit: the ratio stays the same all the same.",
            ),
            (
                "Weights are sent, and they do not shrink.",
                "Weights stay where they are. Activations are sent, and they grow with the tokens.",
            ),
        ),
        right=0,
        about="09",
    ),
    Question(
        "09.accumulate",
        "From lesson 07: the batch is fixed. What does a deeper pipeline do with gradient "
        "accumulation?",
        (
            (
                "Nothing: accumulation is for GPUs with too little memory.",
                "A pipeline's micro-batches are the accumulation: without them it is mostly idle.",
            ),
            (
                "It needs more micro-batches of the same batch, to keep its bubble small.",
                "The bubble is (p - 1)/(m + p - 1). Fewer data-parallel ranks leave each one more "
                "micro-batches, until they are one sequence.",
            ),
            (
                "It needs fewer, as each stage holds fewer layers.",
                "A stage holds fewer layers, but more stages have to be filled.",
            ),
        ),
        right=1,
        about="07",
    ),
)
