"""Questions of lesson 06: what AdamW's bytes buy, and (from lesson 04) what length costs."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "06.turned",
        "AdamW is fast in a steep valley along one weight. In the same valley turned by 45° it "
        "takes many times the steps, at every rate that was tried. Why?",
        (
            (
                "Its learning rate is too low for the turned valley.",
                "A higher rate takes fewer steps in both valleys, and the gap between them stays.",
            ),
            (
                "It scales each weight by itself, and the steep way is no weight's own.",
                "A scale per weight helps where weights differ in the size of their gradients. "
                "Muon looks at the whole matrix instead.",
            ),
            (
                "Its moments take more memory there.",
                "Two numbers per weight, wherever the valley runs.",
            ),
        ),
        right=1,
        about="06",
    ),
    Question(
        "06.sequence",
        "From lesson 04: a model's crossover lies at 20 k tokens. You double the sequence from 2 k "
        "to 4 k. By how much does the cost of one sequence grow?",
        (
            (
                "About 4 times: attention is quadratic.",
                "Far above the crossover only. Here the weights still do most of the work.",
            ),
            (
                "Exactly 2 times.",
                "The weights' part does. Attention adds a little more.",
            ),
            (
                "A little more than 2 times.",
                "s (1 + s / s*): 2 × 1.2 / 1.1.",
            ),
        ),
        right=2,
        about="04",
    ),
)
