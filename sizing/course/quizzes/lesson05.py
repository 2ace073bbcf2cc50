"""Questions of lesson 05: what raises which phase, and (from lesson 03) the optimal size."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "05.phase",
        "The peak of your step lies in the optimizer's update. You halve the micro-batch. What "
        "happens to the peak?",
        (
            (
                "It halves.",
                "Only activations and logits follow the micro-batch, and in the update none is "
                "alive.",
            ),
            (
                "It stays.",
                "Weights, gradients, moments and the update's temporaries follow the parameters "
                "alone.",
            ),
            (
                "It falls by the activations that are saved.",
                "That is so where the peak is the start of the backward pass. Here they are gone.",
            ),
        ),
        right=1,
        about="05",
    ),
    Question(
        "05.budget",
        "From lesson 03: your compute budget grows 100 times. By Chinchilla's approach 1, how do "
        "the best model and its tokens grow?",
        (
            (
                "The model 100 times, on the same tokens.",
                "Then each parameter would see 100 times fewer tokens: the loss would be limited "
                "by data.",
            ),
            (
                "Each about 10 times.",
                "Both exponents are about one half, and 10 × 10 is the budget's 100.",
            ),
            (
                "The tokens 100 times, for the same model.",
                "The model's own limit, the loss of its size, would soon be reached.",
            ),
        ),
        right=1,
        about="03",
    ),
)
