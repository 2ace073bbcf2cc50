"""Questions of lesson 12: which saver comes first, and (from lesson 10) what LoRA has to save."""

from ..quizzing import Question

QUESTIONS = (
    Question(
        "12.qlora",
        "A LoRA run with full recompute runs out of memory, and the peak is in the loss. What do "
        "you try first?",
        (
            (
                "QLoRA: its frozen weights are smaller.",
                "It makes room, but each product unpacks its weight, and the model trained on is a "
                "rounded one. Something cheaper acts on the phase that is full.",
            ),
            (
                "A fused or chunked loss.",
                "It takes away the part that fills the peak, with the same arithmetic and the same "
                "training.",
            ),
            (
                "A lower rank.",
                "Adapters, their gradients and moments are a few per cent of the peak at most.",
            ),
            (
                "The optimizer on the host.",
                "Moments exist for the adapters alone: there is hardly anything to send away.",
            ),
        ),
        right=1,
        about="12",
    ),
    Question(
        "12.saved",
        "From lesson 10: a LoRA run of an 8 B model saves a checkpoint from which it can go on. "
        "What must be in it, if the base model stays on the Hub?",
        (
            (
                "All weights with their moments: 14 bytes per parameter.",
                "Frozen weights have no moments, and the next step can read them from the Hub.",
            ),
            (
                "The adapters alone.",
                "Enough to use the model. To go on, the update needs its moments, and the data "
                "their position.",
            ),
            (
                "The adapters, their moments, random state and the position in the data.",
                "Everything that the next step reads and cannot make anew: 12 bytes for each "
                "adapter weight in fp32, and a little.",
            ),
            (
                "The model with the adapters merged into it.",
                "Merged weights cannot be taken apart again, and the moments are missing.",
            ),
        ),
        right=2,
        about="10",
    ),
)
