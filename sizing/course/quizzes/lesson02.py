"""Questions of lesson 02: what 6ND leaves out, and (from lesson 00) which ceiling limits."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "02.furthest",
        "For which of these does 6ND miss most of the work?",
        (
            (
                "A model of 8 B at 2 k tokens.",
                "There attention is a few per cent, and the untied table makes up for it.",
            ),
            (
                "A model of 0.6 B at 32 k tokens.",
                "Narrow and long: attention costs more than all weights, and 6ND leaves it out.",
            ),
            (
                "A model of 405 B at 8 k tokens.",
                "Its width of 16,384 dilutes attention: 6ND is 7 % low.",
            ),
            (
                "None: 6ND is exact for a dense model.",
                "It drops attention's scores, and it counts looked-up tables.",
            ),
        ),
        right=1,
        about="02",
    ),
    Question(
        "02.one-token",
        "From lesson 00: a GPU writes text, one token at a time, at 2 % of its peak. Which change "
        "helps most?",
        (
            (
                "A card with twice the FLOP/s and the same memory.",
                "One token meets each weight once: about 1 FLOP per byte, far left of the ridge. "
                "The FLOP/s are not what it waits for.",
            ),
            (
                "Weights in half as many bytes.",
                "Each weight is read once per token: half the bytes is half the time.",
            ),
            (
                "Leaving out the token table.",
                "The table is looked up, one row per token: it costs next to nothing.",
            ),
        ),
        right=1,
        about="00",
    ),
)
