"""Drawings: what they show is the library's, each step has its words, and all can be read."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import unescape
from itertools import pairwise
from pathlib import Path

import pytest

import sizing
from sizing import palette
from sizing.course import drawings
from sizing.course.drawings import all_reduce as rings
from sizing.course.drawings import attention as tiles
from sizing.course.drawings import decoder_layer as layers
from sizing.course.drawings import mixture_routes as mixtures
from sizing.course.drawings import overlap, schedules
from sizing.course.drawings import sequence_cuts as cuts
from sizing.course.drawings import zero_stages as stages
from sizing.course.drawings.drawing import Drawing, Step
from sizing.course.drawings.svg import contrast, on
from sizing.footprint.saved import saved_tensors
from sizing.palette import COLOURS

MADE = {
    "layer": lambda: drawings.layer("llama-3.1-8b"),
    "gpt2": lambda: drawings.layer("gpt2", lit="mlp"),
    "saves": drawings.saves,
    "ring": drawings.ring,
    "zero": drawings.zero,
    "pipeline": drawings.pipeline,
    "flash": drawings.flash,
    "lanes": drawings.lanes,
    "splits": drawings.splits,
    "context": drawings.context,
    "experts": drawings.experts,
}


@pytest.mark.parametrize("name", MADE)
def test_each_step_is_a_picture_with_its_own_words(name):
    drawing = MADE[name]()
    words = [step.words for step in drawing.steps]
    assert len(set(words)) == len(words) and all(len(text) > 20 for text in words)
    for step in drawing.steps:
        root = ET.fromstring(step.svg)  # well formed
        titles = root.findall("{http://www.w3.org/2000/svg}title")
        assert root.get("role") == "img" and titles[0].text
        _, _, width, height = map(float, root.get("viewBox").split())
        for text in root.iter("{http://www.w3.org/2000/svg}text"):
            assert 0 <= float(text.get("x")) <= width and 0 <= float(text.get("y")) <= height
            assert float(text.get("font-size")) >= 9.5


@pytest.mark.parametrize("name", MADE)
def test_the_slider_moves_picture_and_words(name):
    drawing = MADE[name]()
    for place, step in enumerate(drawing.steps):
        drawing.at(place)
        assert drawing.picture.value == step.svg and step.words[:20] in unescape(
            drawing.words.value
        )
        bundle = drawing._repr_mimebundle_()
        assert step.svg in bundle["text/html"]
        assert all(one.words in bundle["text/plain"] for one in drawing.steps)
    with pytest.raises(ValueError, match=r"allowed: 0 to \d"):
        drawing.at(len(drawing.steps))


def test_a_drawing_needs_a_step():
    with pytest.raises(ValueError, match="at least one"):
        Drawing("x", ())
    assert Drawing("x", (Step("<svg/>", "y"),)).slider.layout.display == "none"


@pytest.mark.parametrize("part", COLOURS)
def test_labels_can_be_read_on_their_colours(part):
    assert contrast(on(COLOURS[part]), COLOURS[part]) >= 4.5


def test_contrast_is_wcags():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


# One layer


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.2-3b", "mistral-7b", "llama-2-7b"])
def test_the_boxes_hold_the_layers_weights(name):
    model = sizing.Model(name)
    shapes, p = layers.shapes(model), model.parameters
    size = {box: layers._product(shape) for box, shape in shapes.items()}
    attention = size["queries"] + size["keys"] + size["values"] + size["output"]
    small = sum(w.elements for w in model.blocks[0].weights if w.part == "attention") - attention
    assert 0 <= small < 1e-4 * attention  # the norms of queries and keys
    assert model.layers * (size["gate"] + size["up"] + size["down"]) == p.mlp
    assert model.layers * (size["norm 1"] + size["norm 2"]) + model.hidden == p.norm
    assert size["table"] == p.embedding and size["head"] in (p.head, p.embedding)


def test_what_is_lit_has_colour():
    svg = drawings.layer("llama-3.2-3b", lit="attention").steps[0].svg
    assert COLOURS["attention"] in svg and COLOURS["mlp"] not in svg
    assert COLOURS["mlp"] in drawings.layer("gpt2", lit="mlp").steps[0].svg
    assert "gate" not in drawings.layer("gpt2").steps[0].svg


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="lit: 'brain' given; allowed: everything, tables"):
        drawings.layer(lit="brain")
    with pytest.raises(ValueError, match="has experts"):
        drawings.layer("mixtral-8x7b")


@pytest.mark.parametrize("attention", ["flash", "eager"])
def test_what_the_boxes_keep_is_all_that_the_layer_keeps(attention):
    model = sizing.Model("llama-3.2-3b")
    run = sizing.Run(model, sequence=1024, micro_batch=2, attention=attention)
    tensors = [t for t in saved_tensors(run) if not t.shared and not t.weight]
    kept = layers.kept(run)
    assert sum(kept.values()) == sum(t.bytes for t in tensors)
    widest = max((t for t in tensors), key=lambda t: t.bytes)
    assert kept[layers.keeper(widest.name, widest.why)] >= widest.bytes
    if attention == "eager":
        assert max(kept, key=kept.get) == "scores"


# The ring


@pytest.mark.parametrize("ranks", range(2, 9))
def test_the_ring_sums_everything_once(ranks):
    states = rings.rounds(ranks)
    everyone = frozenset(range(ranks))
    assert len(states) == 2 * (ranks - 1) + 1
    scattered = states[ranks - 1]
    for rank in range(ranks):
        assert sum(held == everyone for held in scattered[rank]) == 1
    assert all(held == everyone for row in states[-1] for held in row)
    for number in range(2 * (ranks - 1)):
        assert len({rings.sent(rank, number, ranks) for rank in range(ranks)}) == ranks
        for rank in range(ranks):  # no contribution is added twice
            chunk = rings.sent(rank, number, ranks)
            mine, theirs = states[number][rank][chunk], states[number][(rank + 1) % ranks][chunk]
            assert number >= ranks - 1 or not mine & theirs


def test_what_the_ring_says_it_sent_is_the_librarys():
    model = sizing.Model("gpt2")
    for ranks in (2, 4, 8):
        run = sizing.Run(model, sequence=128, data=ranks, precision="fp32")
        said = float(re.search(r"(\d\.\d\d) of", drawings.ring(ranks).steps[-1].words)[1])
        sent = sizing.communication(run).all_reduce / sizing.memory(run).gradients
        assert said == pytest.approx(sent, abs=0.005)
    with pytest.raises(ValueError, match="ranks: 9 given; allowed: 2 to 8"):
        drawings.ring(9)


# ZeRO


def test_the_stages_hold_what_memory_says():
    run = sizing.Run(sizing.Model("llama-3.2-3b"), sequence=4096, precision="bf16-mixed")
    words = [step.words for step in drawings.zero(run, gpus=8).steps]
    for stage, text in enumerate(words):
        found = sizing.memory(replace(run, data=8, zero=stage))
        total = found.parameters + found.gradients + found.optimizer
        assert f"holds {sizing.gb(total)} (" in text
        assert stages.state(replace(run, data=8, zero=stage))["optimizer"] == found.optimizer
    with pytest.raises(ValueError, match="gpus: 1 given; allowed: 2 to 8"):
        drawings.zero(gpus=1)


# Pipelines


@pytest.mark.parametrize(("stages", "micro"), [(2, 4), (4, 8), (4, 16), (8, 32)])
def test_idle_time_is_the_formulas(stages, micro):
    for schedule, chunks in (("gpipe", 1), ("1f1b", 1), ("interleaved", 2)):
        idle = (stages - 1) / chunks
        assert schedules.bubble(schedule, stages, micro) == pytest.approx(idle / (micro + idle))
    assert schedules.in_flight("gpipe", stages, micro) == micro
    assert schedules.in_flight("1f1b", stages, micro) == min(stages, micro)


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_nothing_begins_before_what_it_needs(schedule):
    stages, micro, chunks = 4, 8, 2 if schedule == "interleaved" else 1
    ends = schedules.timeline(schedule, stages, micro)
    assert len(ends) == 2 * micro * stages * chunks
    for (kind, i, chunk, stage), end in ends.items():
        long = (1 if kind == "F" else 2) / chunks
        before = schedules.needed(kind, i, chunk, stage, stages, chunks)
        assert before is None or ends[before] <= end - long + 1e-9
    for stage in range(stages):
        spans = sorted(
            (end - (1 if kind == "F" else 2) / chunks, end)
            for (kind, _, _, at), end in ends.items()
            if at == stage
        )
        assert all(one[1] <= two[0] + 1e-9 for one, two in pairwise(spans))


def test_pipelines_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="schedule: 'x' given; allowed: gpipe"):
        schedules.orders("x", 4, 8)
    with pytest.raises(ValueError, match="micro: 6 given; allowed: a multiple of the 4 stages"):
        schedules.orders("interleaved", 4, 6)
    with pytest.raises(ValueError, match="stages: 9 given"):
        drawings.pipeline(9)


# Attention's tiles


def test_tiles_cover_every_pair_that_counts():
    assert len(tiles.visits(4, causal=False)) == 16
    assert set(tiles.visits(4, causal=True)) == {(q, k) for q in range(4) for k in range(q + 1)}
    assert "6 of 16 tiles were never touched" in drawings.flash().steps[-1].words
    assert "8,192 × 8,192 scores of each of 32 heads" in drawings.flash().steps[0].words
    with pytest.raises(ValueError, match="tile: 3000 given"):
        drawings.flash(8192, tile=3000)


# Lanes and splits


@pytest.mark.parametrize("sent", [0.0, 0.4, 1.0, 3.0])
def test_lanes_keep_order_and_hide_what_they_can(sent):
    ends = {}
    for engine in overlap.ENGINES:
        events = overlap.schedule(engine, 1.0, sent)
        ends[engine] = max(event.end for event in events)
        for lane in ("compute", "communicate"):
            spans = [(e.begin, e.end) for e in events if e.lane == lane]
            assert all(one[1] <= two[0] + 1e-9 for one, two in pairwise(spans))
        passes = sum(e.end - e.begin for e in events if e.lane == "communicate")
        layers = overlap.LAYERS
        gathers = 2 * layers - 1  # the last layer is held for its backward pass
        expected = 2 * layers if engine == "DDP" else gathers + layers
        assert passes == pytest.approx(expected * sent)
        assert ends[engine] >= 3 * layers
    assert ends["FSDP, prefetch"] <= ends["FSDP, no prefetch"] + 1e-9
    if sent == 0:
        assert set(ends.values()) == {3 * overlap.LAYERS}


def test_the_lanes_times_are_the_librarys():
    run = sizing.Run(sizing.Model("llama-3.2-3b"), sequence=1024, precision="bf16", data=8, zero=3)
    forward, sent = overlap.layer_seconds(run, rate=1.0)
    card = sizing.hardware.gpu("h100-sxm")
    work = sizing.flops(replace(run, data=1, zero=0)).forward / 28
    assert forward == pytest.approx(work / card.peak_flops("bf16"))
    assert sent == pytest.approx(sizing.communication(run).reduce_scatter / 28 / card.link)
    with pytest.raises(ValueError, match="engine: 'x' given; allowed: DDP"):
        overlap.schedule("x", 1, 1)


def test_splits_say_the_models_shapes():
    words = [step.words for step in drawings.splits("llama-3.1-8b", gpus=4).steps]
    assert "each GPU holds 4096 × 3584" in words[1]
    with pytest.raises(ValueError, match="gpus: 3 given; allowed: 2, 4 or 8"):
        drawings.splits(gpus=3)


# Three ways to cut a sequence


@pytest.mark.parametrize("ranks", range(2, 7))
def test_a_ring_lets_every_block_of_queries_meet_every_block_of_keys_once(ranks):
    for rank in range(ranks):
        assert sorted(cuts.arrives(rank, hop, ranks) for hop in range(ranks)) == list(range(ranks))
    for hop in range(1, ranks):  # what a rank works on came from its left neighbour
        for rank in range(ranks):
            left = (rank - 1) % ranks
            assert cuts.arrives(rank, hop, ranks) == cuts.arrives(left, hop - 1, ranks)


def test_what_a_sequence_cut_sends():
    run = sizing.Run("llama-3.1-8b", sequence=131072, precision="bf16", context=8)
    block = 131072 // 8 * 2 * 1024 * 2  # keys and values of a rank, bf16
    assert cuts.sent(run, "ring") == cuts.sent(run, "all-gather") == 32 * 7 * 3 * block
    queries = 131072 // 8 * 4096 * 2
    assert cuts.sent(run, "all-to-all") == pytest.approx(2 * 32 * 7 / 8 * (2 * queries + block))
    more = [cuts.sent(replace(run, context=c), "all-to-all") for c in (8, 16, 32)]
    ring = [cuts.sent(replace(run, context=c), "ring") for c in (8, 16, 32)]
    assert more == sorted(more, reverse=True) and ring == sorted(ring)
    assert (
        f"{sizing.gb(cuts.sent(replace(run, context=4), 'ring'))}"
        in MADE["context"]().steps[4].words
    )
    with pytest.raises(ValueError, match="way: 'x' given; allowed: ring, all-gather, all-to-all"):
        cuts.sent(run, "x")
    with pytest.raises(ValueError, match="context: 64 given; allowed: a divisor of the 32 heads"):
        cuts.sent(replace(run, context=64), "all-to-all")
    with pytest.raises(ValueError, match="ranks: 3 given; allowed: 2 to 6"):
        drawings.context(ranks=3)


# Tokens and experts


def test_every_copy_of_a_token_reaches_an_expert():
    picks = mixtures.routes(4, 8, 2)
    assert len(picks) == 16 and all(len(set(pick)) == 2 for pick in picks)
    counts = mixtures.load(picks, 4, 8)
    assert sum(counts) == 32 and max(counts) > 8
    words = drawings.experts().steps[2].words
    assert f"The busiest GPU has {max(counts)} copies, the mean is 8" in words


def test_what_the_experts_are_sent_is_the_librarys():
    run = sizing.Run("mixtral-8x7b", sequence=4096, precision="bf16")
    mine = 4 * 4096 * 2 * run.model.hidden * 2 * 3 / 4
    assert mixtures.sent(run, 4) == pytest.approx(mine)
    assert sizing.gb(mine) in drawings.experts().steps[3].words
    with pytest.raises(ValueError, match="ranks: 4 given for 0 experts"):
        drawings.experts("llama-3.1-8b")
    with pytest.raises(ValueError, match="ranks: 3 given for 8 experts; allowed: 2 to 4"):
        drawings.experts(ranks=3)


def test_lines_are_seen_on_white():
    """WCAG 2.1, 1.4.11: graphical objects have a contrast of 3 at least."""
    for colour in {*palette.SERIES, *palette.COLOURS.values(), palette.GREY}:
        assert contrast(colour, "#ffffff") >= 3


def test_no_module_has_a_palette_of_its_own():
    hues = {colour.lower() for colour in palette.SERIES}
    for path in (Path(sizing.__file__).parent).rglob("*.py"):
        if path.name != "palette.py":
            found = set(re.findall(r"#[0-9a-f]{6}", path.read_text(encoding="utf-8").lower()))
            assert not found & hues, path
