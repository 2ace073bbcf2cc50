"""Questions of lesson 04: what flash attention changes, and (from lesson 02) whose MFU it is."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "04.flash",
        "Why does flash attention take less time on a GPU?",
        (
            (
                "It multiplies less.",
                "It multiplies more: seven products where eager needs six.",
            ),
            (
                "It leaves out half of the pairs.",
                "A causal kernel does, but flash attention is faster without a mask too.",
            ),
            (
                "It approximates the softmax.",
                "Output and gradients are the same, up to rounding.",
            ),
            (
                "It moves far fewer bytes.",
                "The s × s matrix is never written to memory: 4.4 GB instead of 40.3 in the first "
                "paper, for more FLOPs.",
            ),
        ),
        right=3,
        about="04",
    ),
    Question(
        "04.whose-mfu",
        "From lesson 02: two papers train the same model at 128 k tokens, equally fast, on the "
        "same GPUs. One reports a much higher MFU. What is likely?",
        (
            (
                "It counts all query-key pairs, the other one the causal half.",
                "At this length attention is a large part, so the convention moves the MFU a lot.",
            ),
            (
                "It has a better kernel.",
                "They are equally fast: the kernel cannot be the reason.",
            ),
            (
                "It counts recomputed products.",
                "Then it should call it HFU; and recompute adds a third at most.",
            ),
        ),
        right=0,
        about="02",
    ),
)
