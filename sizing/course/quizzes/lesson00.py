"""Questions of lesson 00: the two ceilings, and what a measurement is worth."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "00.faster-memory",
        "A new card has the same FLOP/s and twice the bandwidth. What happens to its ridge?",
        (
            (
                "It doubles: the card is twice as good.",
                "The ridge is peak over bandwidth: the bandwidth stands below the line.",
            ),
            (
                "It halves: more operations can use the whole peak.",
                "Peak over bandwidth is half as large, so operations of half the intensity reach "
                "the flat roof.",
            ),
            (
                "It stays: the peak is the same.",
                "The ridge is where both limits meet. One of them moved.",
            ),
        ),
        right=1,
        about="00",
    ),
    Question(
        "00.two-medians",
        "Two copies are timed on a busy laptop: 22 and 35 GB/s in the median, and "
        "a tenth of the runs of each lies outside 18 to 41. What may you conclude?",
        (
            (
                "Caches make one of the two faster.",
                "Perhaps, but this measurement cannot say so: it has no evidence about caches.",
            ),
            (
                "The larger one always wins.",
                "Nothing here orders them by size, and the spreads overlap.",
            ),
            (
                "Memory moves at least 35 GB/s here; why the two differ is not known.",
                "What was reached can be reached: a ceiling. The cause needs another experiment.",
            ),
            (
                "Nothing at all.",
                "What was measured was reached: that much is certain.",
            ),
        ),
        right=2,
        about="00",
    ),
)
