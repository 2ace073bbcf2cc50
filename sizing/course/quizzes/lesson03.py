"""Questions of lesson 03: what an optimum means, and (from lesson 01) what experts change."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "03.optimal-for",
        "A model is compute-optimal by a fit. What does that say?",
        (
            (
                "It is the best model that one can use.",
                "It says nothing of use: a smaller one, trained longer, answers for less.",
            ),
            (
                "No other size reaches a lower loss for the same training compute.",
                "By that fit, on that data. Serving, memory and little text are not in it.",
            ),
            (
                "More training would not help it.",
                "More tokens still lower the loss; they only cost more than a larger model would.",
            ),
        ),
        right=1,
        about="03",
    ),
    Question(
        "03.experts",
        "From lesson 01: a model has 47 B parameters, 13 B of them active. Which N stands in 6ND "
        "for its training compute?",
        (
            (
                "47 B: all of them are trained.",
                "All are trained, but a token meets only some: memory follows the total.",
            ),
            (
                "13 B: those that a token meets.",
                "FLOPs follow the active parameters, memory the total.",
            ),
            (
                "30 B: the mean of both.",
                "There is no mean to take: each token multiplies with the active ones.",
            ),
        ),
        right=1,
        about="01",
    ),
)
