"""Questions of lesson 08: what ZeRO leaves whole, and (from lesson 06) what a master copy is."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "08.share",
        "With stage 3 on 64 GPUs a step is just too large for the card. Which of these lowers "
        "the peak most?",
        (
            (
                "128 GPUs instead of 64.",
                "Model state is already divided by 64: halving a small share frees little. What "
                "is fixed stays.",
            ),
            (
                "Half of the micro-batch, and twice the accumulation.",
                "Activations and logits are what no stage divides, and they follow the "
                "micro-batch.",
            ),
            (
                "A faster network.",
                "It shortens the step. Not a byte less is held.",
            ),
            (
                "An optimizer with 4 instead of 8 bytes of moments.",
                "Its state is divided by 64 as well: 4/64 of a byte per parameter are saved.",
            ),
        ),
        right=1,
        about="08",
    ),
    Question(
        "08.optimizer",
        "From lesson 06: AdamW in bf16 with an fp32 master copy. How many of its 16 bytes per "
        "parameter does ZeRO stage 1 divide?",
        (
            (
                "8: the two moments.",
                "The fp32 master copy is the optimizer's as well: only the owner of a share "
                "updates it.",
            ),
            (
                "12: the two moments and the master copy.",
                "8 bytes of moments and 4 of master copy. The bf16 weights and gradients stay "
                "whole.",
            ),
            (
                "14: all but the bf16 weights.",
                "Gradients are divided from stage 2 on.",
            ),
        ),
        right=1,
        about="06",
    ),
)
