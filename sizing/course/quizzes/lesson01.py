"""Questions of lesson 01: what a count is made of, and (from lesson 00) what a ceiling limits."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "01.wider",
        "A model of 70 M parameters and one of 70 B have the same vocabulary. You double the width "
        "of both. Which one grows by the larger factor?",
        (
            (
                "The small one: it has more room to grow.",
                "Most of the small one is its table, V h, and the table only doubles.",
            ),
            (
                "The large one: nearly all of it grows fourfold.",
                "Its layers, 12 L h², hold nearly everything and grow fourfold; the table of the "
                "small one, V h, doubles.",
            ),
            (
                "Both by the same factor: the formula is the same.",
                "The formula has two terms. Which of them dominates differs: V h grows twofold, "
                "12 L h² fourfold.",
            ),
        ),
        right=1,
        about="01",
    ),
    Question(
        "01.memory-bound",
        "From lesson 00: which of these becomes twice as fast on a GPU with twice the FLOP/s and "
        "the same memory?",
        (
            (
                "Adding two vectors of a billion numbers.",
                "It does one FLOP per 12 bytes: memory limits it, and the memory is the same.",
            ),
            (
                "AdamW's step over all weights.",
                "It reads and writes 28 bytes per weight for about ten FLOPs: memory limits it.",
            ),
            (
                "A product of two large square matrices.",
                "Its FLOPs grow with n³ and its bytes with n², so it stands right of the ridge, "
                "under the flat roof.",
            ),
            (
                "One token through a layer of 4096 × 4096.",
                "Each weight is read for one multiply-add: about 1 FLOP per byte, far left of the "
                "ridge.",
            ),
        ),
        right=2,
        about="00",
    ),
)
