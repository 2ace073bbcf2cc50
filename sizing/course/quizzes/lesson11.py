"""Questions of lesson 11: what to do with a band, and (from lesson 09) who pays for a bubble."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "11.band",
        "Predicted: 12 days, between 11 and 24. The deadline is in 14 days. What do you say to the "
        "customer today?",
        (
            (
                "Twelve days, with two in reserve.",
                "The reserve ends at 14, the band at 24: in a good part of it you are late.",
            ),
            (
                "It cannot be done.",
                "It can, and by the prediction it will. What is missing is certainty.",
            ),
            (
                "A run of the model for an hour first; or fewer tokens, until the high end is 14.",
                "The hour takes away the widest term. Fewer tokens move the whole band.",
            ),
            (
                "Twice the GPUs.",
                "That moves the band to 12 days at its high end, and is an answer if they are "
                "there; it is the dearest one if the hour shows that 12 days were right.",
            ),
        ),
        right=2,
        about="11",
    ),
    Question(
        "11.bubble",
        "From lesson 09: a pipeline of 8 stages, 8 micro-batches per step. Twice the GPUs as data "
        "parallel, the same global batch: 4 micro-batches for each pipeline. What do the dollars "
        "for the run do?",
        (
            (
                "They stay: the work is the same.",
                "The work is, the idle GPU-hours are not: they are paid for as well.",
            ),
            (
                "They rise: the bubble grows from 7/15 to 7/11 of the time.",
                "(p - 1) / (m + p - 1): fewer micro-batches, a larger share of paid hours idle.",
            ),
            (
                "They fall: the run is over in half the time.",
                "Not in half: 8 + 7 turns become 4 + 7. And twice as many GPUs are paid for.",
            ),
        ),
        right=1,
        about="09",
    ),
)
