"""Questions of lesson 10: what a resume proves, and (from lesson 08) what stages do not save."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "10.resume",
        "One process resumes. Its first loss equals, to the bit, that of the run which was never "
        "interrupted. What is proved?",
        (
            (
                "The checkpoint is complete.",
                "The first loss is computed before any update: whatever only the update reads may "
                "be missing.",
            ),
            (
                "Weights, random state and position in the data are restored.",
                "These three make the first loss. The moments show in the second one.",
            ),
            (
                "The optimizer's moments are restored.",
                "They are read in the update after the first loss, so it cannot tell.",
            ),
            (
                "The learning rate's schedule is restored.",
                "The rate acts in the update after the first loss, so it cannot tell.",
            ),
        ),
        right=1,
        about="10",
    ),
    Question(
        "10.zero",
        "From lesson 08: 64 GPUs go from ZeRO stage 1 to stage 3. What happens to the bytes of a "
        "checkpoint, all files together?",
        (
            (
                "They fall to a 64th: everything is divided now.",
                "Each rank holds a 64th, and 64 ranks write one: all files together are whole.",
            ),
            (
                "They fall: before, each of the 64 ranks wrote all weights.",
                "What several ranks hold alike is written once, under stage 1 too.",
            ),
            (
                "They stay, but for more names and small containers.",
                "Each number is saved once, whoever holds it. More pieces need more containers.",
            ),
        ),
        right=2,
        about="08",
    ),
)
