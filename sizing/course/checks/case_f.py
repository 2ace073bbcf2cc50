"""Case lab F, the out-of-memory clinic: answers, and what each known mistake leads to."""

from dataclasses import replace
from functools import cache

from ...calculators.cures import cures
from ...footprint.fit import VERDICTS
from ...footprint.step import PARTS, PHASES, memory
from ...hardware import gpu
from ...units import GB, GIB
from ..clinic import FAILED, cheapest, grade, reports, specimens
from ..exercise import Exercise

CURES = (
    "fused loss",
    "chunked loss",
    "compiled",
    "half the micro-batch, twice the accumulation",
    "full recompute",
    "LoRA, rank 16",
    "QLoRA, rank 16",
    "half the sequence length",
    "activations on the host",
    "optimizer on the host",
)


@cache
def verdicts(way: str = "asked") -> dict[str, str]:
    """Each report's verdict; or judged by tensors alone, or by what happened."""
    found = {}
    for name, report in reports().items():
        card = gpu(report.gpu)
        if way == "tensors":
            small = report.held().total <= card.memory
            found[name] = "fits" if small else "does not fit"
        else:
            found[name] = report.held().on(card).verdict
            if way == "reported" and report.happened == FAILED:
                found[name] = "does not fit"
    return found


def _failing():
    return {name: r for name, r in reports().items() if r.verdict(r.patient) != "fits"}


@cache
def culprits(way: str = "asked") -> dict[str, tuple[str, str]]:
    """(phase, its largest part) of the peak of each run that does not simply fit."""
    found = {}
    for name, report in _failing().items():
        step = "steady" if way == "steady" else report.step
        held = memory(report.run if way == "untreated" else report.patient, step=step)
        parts = held.phases[held.peak_phase]
        found[name] = (held.peak_phase, max(parts, key=parts.get))
    return found


def timeline(step: str = "first", unit: float = GIB, copies: bool = True):
    """What the first report's step holds after set-up, after the backward pass, in the update."""
    held = memory(reports()["first update"].run, step=step)
    before = held.phases["forward"]
    state = before["parameters"] + (before["optimizer"] if copies else 0)
    later = [sum(held.phases[phase].values()) for phase in ("embedding", "optimizer")]
    return tuple(size / unit for size in (state, *later))


def losses(unit: float = GIB, part: str = "total"):
    """The long text with each loss: its peak, or its logits."""
    report = reports()["long text"]
    held = [report.held(replace(report.run, loss=loss)) for loss in ("eager", "compiled", "fused")]
    return tuple(getattr(one, part) / unit for one in held)


@cache
def longest(way: str = "tight") -> int:
    """The longest text of the ninth report, in multiples of 1024 tokens."""
    report = reports()["longer text"]
    card = gpu(report.gpu)

    def takes(sequence: int) -> bool:
        held = report.held(replace(report.run, sequence=sequence))
        if way == "tensors":
            return held.total <= card.memory
        good = ("fits",) if way == "fits" else ("fits", "tight")
        return held.on(card).verdict in good

    return max(n for n in range(1024, report.run.sequence + 1, 1024) if takes(n))


def updates(unit: float = GB):
    """Peaks of the second report: as it is, paged moments, update in backward, both."""
    report = reports()["small card"]
    paged, early = {"optimizer": "paged-adamw-8bit"}, {"optimizer_in_backward": True}
    ways = ({}, paged, early, {**paged, **early})
    return tuple(report.held(replace(report.run, **way)).total / unit for way in ways)


@cache
def chosen(way: str = "cheapest") -> dict[str, str]:
    """The cure of each run that does not simply fit."""
    found = {}
    for name, report in _failing().items():
        fitting = [cure for cure in cures(report.patient) if report.verdict(cure.run) == "fits"]
        if way == "tight":
            fitting = [c for c in cures(report.patient) if c.same_training
                       and report.verdict(c.run) != "does not fit"]  # fmt: skip
        if way == "cheapest":
            found[name] = cheapest(report).what
        elif way == "least":
            found[name] = min(fitting, key=lambda cure: report.held(cure.run).total).what
        else:
            found[name] = fitting[0].what
    return found


@cache
def needed(way: str = "asked") -> dict[str, str]:
    """Whether the cure that each report names was needed."""
    found = {}
    for name, report in reports().items():
        if report.cured is None:
            continue
        if report.verdict() != "does not fit":
            found[name] = "not needed"
        else:
            found[name] = "in vain" if report.then == FAILED else "needed"
    if way == "ran":
        return {name: "in vain" if word == "in vain" else "needed" for name, word in found.items()}
    if way == "failed":
        return {name: "needed" if word == "in vain" else word for name, word in found.items()}
    return found


def grades(**changed: str) -> dict[str, str]:
    return {name: grade(memo) for name, memo in specimens().items()} | changed


EXERCISES = (
    Exercise(
        "verdicts",
        answer=verdicts,
        choices=VERDICTS,
        mistakes=(
            (
                lambda: verdicts("tensors"),
                "You compared tensors with the whole card. Context, workspaces and gaps come on "
                "top: `.on(gpu).verdict` knows them, and has three words.",
            ),
            (
                lambda: verdicts("reported"),
                "Those are the reports' own words. What does `.on(gpu).verdict` say? A tight run "
                "may end either way.",
            ),
            (
                lambda: dict.fromkeys(reports(), ...) | {"first update": "fits"},
                'Look at *first update* again: its worst moment is the update, which makes the '
                'moments.',
            ),
            (
                lambda: dict.fromkeys(reports(), ...) | {"four bits": "does not fit"},
                'Look at *four bits* again: which card has it, and how much do its tensors take?',
            ),
            (
                lambda: dict.fromkeys(reports(), ...) | {"two cards": "does not fit"},
                'Look at *two cards* again: each card holds the whole frozen model in 16 bits.',
            ),
            (
                lambda: dict.fromkeys(reports(), ...) | {"two large cards": "fits"},
                'Look at *two large cards* again: FSDP over two GPUs halves the state, and no '
                'more.',
            ),
            (
                lambda: dict.fromkeys(reports(), ...) | {"eight cards": "fits"},
                'Look at *eight cards* again: the activations of its texts are divided by no GPU.',
            ),
            (
                lambda: dict.fromkeys(reports(), ...) | {"long text": "fits"},
                'Look at *long text* again: four bits are its weights, not its logits.',
            ),
            (
                lambda: dict.fromkeys(reports(), ...) | {"longer text": "fits"},
                'Look at *longer text* again: a Triton loss makes no logits, but the layers keep '
                '102,400 tokens.',
            ),
        ),
        because="Every run that failed is on the wrong side or on the edge, every one that ran is "
        "not on the wrong side.",
    ),
    Exercise(
        "culprits",
        answer=culprits,
        choices=(*PHASES, *(part for part in PARTS if part not in PHASES)),
        mistakes=(
            (
                lambda: culprits("steady"),
                "You read a later step. Give `step=report.step` to `sizing.memory`.",
            ),
            (
                lambda: culprits("untreated"),
                "Almost: where a cure was tried in vain, the run that failed last is meant, "
                "`report.patient`.",
            ),
        ),
        because="The optimizer's state, activations and logits: three culprits, and each asks for "
        "a cure of its own.",
    ),
    Exercise(
        "timeline",
        answer=timeline,
        unit="GiB",
        mistakes=(
            (lambda: timeline(unit=GB), "That is in GB. The report counts GiB."),
            (
                lambda: timeline("steady"),
                "Those are a later step's: its moments exist from the beginning. Say "
                "`step='first'`.",
            ),
            (
                lambda: timeline(copies=False),
                "The fp32 copies of the weights are missing: they are there from set-up on, and "
                "`phases['forward']` has them under 'optimizer'.",
            ),
            (
                lambda: (timeline()[1], timeline()[0], ...),
                'The first two are swapped: gradients come after the set-up.',
            ),
            (
                lambda: (..., timeline()[0], ...),
                'The second is the set-up again. Gradients are added by then: the phase '
                '`embedding`.',
            ),
            (
                lambda: (..., ..., 2 * timeline()[1]),
                'The third is not twice the second. Take the phase `optimizer` of the first step.',
            ),
        ),
        because="The report saw the first two. The third is the moments, made in the first update.",
    ),
    Exercise(
        "losses",
        answer=losses,
        unit="GiB",
        mistakes=(
            (lambda: losses(GB), "That is in GB. A GiB is 2**30 bytes."),
            (
                lambda: losses(part="logits"),
                "Those are the logits alone. The whole peak is asked for: `.total`.",
            ),
            (
                lambda: (..., losses()[0], ...),
                'The second is the eager loss. The compiled one keeps 4 bytes per logit, not 12.',
            ),
            (
                lambda: (losses()[1], losses()[2], losses()[0]),
                'The order is eager, compiled, fused.',
            ),
        ),
        because="The loss was what ran out. The weights in four bits had been paid for before.",
    ),
    Exercise(
        "longest",
        answer=longest,
        unit="tokens",
        tolerance=0,
        mistakes=(
            (
                lambda: longest("tensors"),
                "You compared tensors with the whole card. What lies beside them is in "
                "`.on(gpu).verdict`.",
            ),
            (
                lambda: longest("fits"),
                "That is the longest that fits at ease. A run on the edge is asked for: count "
                "'tight' as well.",
            ),
            (
                65_536,
                '65,536 is what the report names. Is there a longer text whose verdict is not '
                '`does not fit`?',
            ),
            (
                102_400,
                '102,400 tokens are out of memory: that is the report.',
            ),
            (
                70_656,
                'One step of 1,024 more, and the verdict still is not `does not fit`.',
            ),
        ),
        because="65,536 filled the card, says the report.",
    ),
    Exercise(
        "updates",
        answer=updates,
        unit="GB",
        mistakes=(
            (lambda: updates(GIB), "That is in GiB. A GB is 1e9 bytes."),
            (
                lambda: updates()[::-1],
                "These are the four in the other order: as it is comes first, both come last.",
            ),
            (
                lambda: (updates()[0], updates()[2], updates()[1], updates()[3]),
                'The second and third are swapped: paged AdamW comes first.',
            ),
            (
                lambda: (..., ..., ..., updates()[1]),
                'The last has both: paged moments and no gradients.',
            ),
        ),
        because="Each of the two alone leaves a tensor as large as the weights, or two.",
    ),
    Exercise(
        "cheapest",
        answer=chosen,
        choices=CURES,
        mistakes=(
            (
                lambda: chosen("any"),
                "You took the first that fits. Some of these train something else: skip cures "
                "whose `same_training` is False.",
            ),
            (
                lambda: chosen("least"),
                "You took the smallest peak. Memory that is left over buys nothing: take the first "
                "in order of cost.",
            ),
            (
                lambda: chosen("tight"),
                "You took 'tight' for a cure. It asks for expandable segments, and for luck with "
                "the next longer text.",
            ),
        ),
        because="Nobody needs the same cure: it depends on what ran out.",
    ),
    Exercise(
        "needed",
        answer=needed,
        choices=("needed", "not needed", "in vain"),
        mistakes=(
            (
                lambda: needed("ran"),
                "That a run ran with a cure does not show that it needed it. What is the verdict "
                "without?",
            ),
            (
                lambda: needed("failed"),
                "One of them still ran out of memory with its cure. Read `report.then`.",
            ),
            (
                lambda: dict.fromkeys(needed(), ...) | {"four bits": "needed"},
                'Look at *four bits* again: what is the verdict of the run without its cure?',
            ),
            (
                lambda: dict.fromkeys(needed(), ...) | {"two cards": "needed"},
                'Look at *two cards* again: what is the verdict of the run without its cure?',
            ),
            (
                lambda: dict.fromkeys(needed(), ...) | {"two large cards": "not needed"},
                'Look at *two large cards* again: it did not fit before either.',
            ),
            (
                lambda: dict.fromkeys(needed(), ...) | {"first update": "in vain"},
                'Look at *first update* again: what happened with its cure?',
            ),
        ),
        because="Two runs fitted before, and one cure acted on what was not full.",
    ),
    Exercise(
        "grades",
        answer=grades,
        choices=("good", "fair", "poor"),
        mistakes=(
            (
                lambda: grades(A="fair"),
                "Its verdict is right, and little else: phase, part, size and cure are wrong, and "
                "nothing is refused.",
            ),
            (
                lambda: grades(B="good"),
                "It knows what ran out, but its cure is another training, and it does not say why "
                "not another.",
            ),
            (
                lambda: grades(C="fair"),
                "It has all five: count its points with `clinic.marks`.",
            ),
            (
                lambda: grades(B="poor"),
                'B names the right phase and part, and its peak is right: count 4 points and more.',
            ),
        ),
        because="A diagnosis is good when somebody else can check it.",
    ),
)  # fmt: skip
