"""Drawings: what they show is the library's, each step has its words, and all can be read."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import unescape

import pytest

import sizing
from sizing.calculators.style import COLOURS
from sizing.course import drawings
from sizing.course.drawings import all_reduce as rings
from sizing.course.drawings import decoder_layer as layers
from sizing.course.drawings import zero_stages as stages
from sizing.course.drawings.drawing import Drawing, Step
from sizing.course.drawings.svg import contrast, on
from sizing.footprint.saved import saved_tensors

MADE = {
    "layer": lambda: drawings.layer("llama-3.1-8b"),
    "gpt2": lambda: drawings.layer("gpt2", lit="mlp"),
    "saves": drawings.saves,
    "ring": drawings.ring,
    "zero": drawings.zero,
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
