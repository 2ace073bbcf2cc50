"""Questions of lesson 07: accumulation that is another gradient, and (from lesson 05) the peak."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "07.accumulate",
        "Documents of different lengths, four micro-batches, each loss a mean over its own tokens. "
        "You add the four gradients and divide by four. What is wrong?",
        (
            (
                "Nothing: a mean of means is the mean.",
                "Only where all micro-batches count equally many tokens.",
            ),
            (
                "Rounding: in fp32 it would be right.",
                "The experiment shows the same distance in three dtypes: it is another gradient.",
            ),
            (
                "Tokens of the shorter micro-batches weigh more.",
                "Divide each sum by the tokens of the whole batch instead.",
            ),
            (
                "The learning rate must be divided by four as well.",
                "The rate belongs to the whole batch, in however many pieces.",
            ),
        ),
        right=2,
        about="07",
    ),
    Question(
        "07.peak",
        "From lesson 05: full recompute leaves the peak of your step as it was. What is the likely "
        "reason?",
        (
            (
                "The optimizer's update is the peak.",
                "Then no activation is alive, and fewer of them change nothing.",
            ),
            (
                "Recompute does not work with flash attention.",
                "It does: what the layers keep besides is dropped all the same.",
            ),
            (
                "The activations are made again, so nothing is saved.",
                "One layer at a time: the others' are not alive then.",
            ),
        ),
        right=0,
        about="05",
    ),
)
