"""Expert, sequence and interleaved parallelism, and the engine: what a Run says of them."""

from dataclasses import replace

import numpy as np
import pytest

from sizing import Model, Run, communication, memory
from sizing.footprint.backward import kept
from sizing.footprint.forward import Forward
from sizing.footprint.sharding import in_flight
from sizing.footprint.undivided import undivided
from sizing.parallel import check_degrees, held_parameters, stages

LLAMA = Model("llama-3.1-8b")
GPT3 = Run("gpt3-175b", sequence=2048, precision="bf16-master", attention="eager")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "megtron"}, "engine: 'megtron' given; .*nearest: 'megatron'"),
        ({"expert": 0}, "expert: 0 given; allowed: a whole number >= 1"),
        ({"interleave": 1.5}, "interleave: 1.5 given; allowed: a whole number >= 1"),
        ({"sequence_parallel": 1}, "sequence_parallel: 1 given; allowed: True, False"),
    ],
)
def test_bad_values(changes, message):
    with pytest.raises(ValueError, match=message):
        Run(LLAMA, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert": 2, "data": 2}, "expert: 2 given; allowed: 1 for a model without experts"),
        ({"interleave": 2}, "interleave: 2 given; allowed: 1 without a pipeline"),
        ({"interleave": 16, "pipeline": 4}, "interleave: 16 given; allowed: 1 to 8"),
    ],
)
def test_impossible_degrees(changes, message):
    with pytest.raises(ValueError, match=message):
        check_degrees(Run(LLAMA, **changes))


def test_experts_must_divide():
    with pytest.raises(ValueError, match="expert: 3 given; allowed: a divisor of experts = 8"):
        check_degrees(Run("mixtral-8x7b", expert=3, data=3))
    with pytest.raises(ValueError, match="expert: 8 given; allowed: a divisor of tensor x"):
        check_degrees(Run("mixtral-8x7b", expert=8, data=4))


def test_words_of_engines():
    assert Run(LLAMA, engine="NeMo").engine == "megatron"
    assert Run(LLAMA, engine="MaxText").engine == "xla"
    assert Run(LLAMA).engine is None


# --- Expert parallelism --------------------------------------------------------------------------


def test_parameters_of_an_expert_parallel_rank_by_hand():
    """Mixtral 8x7B on 8 expert-parallel ranks: one expert of each layer, all else whole."""
    model = Model("mixtral-8x7b")
    run = Run(model, sequence=4096, precision="bf16", expert=8, data=8)
    experts = 32 * 8 * 3 * 4096 * 14336
    (stage,) = stages(run)
    assert held_parameters(run, stage) == (
        model.parameters.total - experts * 7 / 8,
        experts / 8,
    )
    assert memory(run).parameters == 2 * (model.parameters.total - experts * 7 // 8)


def test_experts_are_sliced_where_tensor_ranks_are_not_needed_for_them():
    run = Run("mixtral-8x7b", sequence=4096, precision="bf16", expert=4, data=4, tensor=2)
    (stage,) = stages(run)
    sliced = held_parameters(run, stage)[1]
    folded = held_parameters(replace(run, expert=8), stage)[1]  # one whole expert a GPU
    assert sliced == folded == 32 * 3 * 4096 * 14336


def test_zero_divides_experts_by_the_ranks_that_hold_the_same():
    run = Run("mixtral-8x7b", sequence=512, precision="bf16-master", expert=8, data=16, zero=1)
    experts, total = 32 * 8 * 3 * 4096 * 14336, Model("mixtral-8x7b").parameters.total
    held = (total - experts) / 16 + experts / 8 / 2
    assert memory(run).optimizer == pytest.approx(12 * held, rel=1e-9)


def test_tokens_go_to_experts_and_back_by_hand():
    run = Run("mixtral-8x7b", sequence=4096, precision="bf16", expert=8, data=8, accumulation=3)
    result = communication(run)
    one = 4096 * 2 * 4096 * 2 * 7 / 8  # tokens, experts a token, hidden, bytes, all but its own
    assert result.all_to_all == 3 * 32 * 4 * one
    assert sum(result.by_purpose.values()) == pytest.approx(result.total)
    assert communication(replace(run, recompute="full")).all_to_all == 1.5 * result.all_to_all


# --- Tensor parallelism without sequence parallelism ---------------------------------------------


def test_what_stays_whole_is_korthikantis_ten_of_34_bytes():
    """arXiv:2205.05198, equations 1 and 2: sbh (10 + 24/t + 5as/(ht)); PyTorch's GPT-2 keeps more
    of its activation function (transformers' gelu in parts), so the ten are compared alone."""
    run = Run("gpt2", sequence=1024, precision="bf16", attention="eager")
    forward = Forward(run)
    (block,) = forward.layers
    whole = undivided(forward).kept[2]
    held = kept(forward.layers[block])["activations"][2]
    statistics = 4 * 4  # bytes: mean and deviation of two norms, which the paper leaves out
    assert whole * held == pytest.approx(10 * 768 + statistics)


def test_without_sequence_parallelism_more_is_held_and_as_much_is_sent():
    run = replace(GPT3, tensor=8, recompute="full")
    without = replace(run, sequence_parallel=False)
    kept = memory(run).activations, memory(without).activations
    assert kept[1] == pytest.approx(8 * kept[0], rel=0.05)  # checkpointed inputs are whole
    ours, theirs = communication(run).by_purpose, communication(without).by_purpose
    forward = "tensor-parallel forward"
    assert theirs[forward] == pytest.approx(ours[forward], rel=0.01)
    assert communication(without).all_gather == 0
    one = memory(replace(without, tensor=1)), memory(replace(run, tensor=1))
    assert one[0].total == one[1].total


# --- Interleaved pipelines -----------------------------------------------------------------------


@pytest.mark.parametrize(("pipeline", "interleave"), [(4, 2), (8, 3), (8, 12)])
def test_interleaved_activations_are_megatrons_factor(pipeline, interleave):
    """1 + (p - 1) / (pv): Korthikanti et al. (arXiv:2205.05198), section 4.2.3."""
    run = replace(GPT3, pipeline=pipeline, interleave=interleave, accumulation=64)
    factor = 1 + (pipeline - 1) / (pipeline * interleave)
    assert in_flight(run, 0) == pytest.approx(pipeline * factor)
    plain = memory(replace(run, interleave=1)).activations
    assert memory(run).activations == pytest.approx(plain * factor, rel=0.02)


def test_interleaved_stages_and_messages():
    run = replace(GPT3, pipeline=8, interleave=3, accumulation=16)
    assert [stage.layers for stage in stages(run)] == [12] * 8
    # the busiest, with the tied embedding, is an end: one message on, and two a further stage
    plain = communication(replace(run, interleave=1)).point_to_point
    assert communication(run).point_to_point == 5 * plain


@pytest.mark.parametrize(
    ("layers", "pipeline", "expected"),
    [(70, 12, [5, *[6] * 10, 5]), (126, 16, [7, *[8] * 14, 7]), (80, 8, [10] * 8)],
)
def test_stages_of_megatron_count_layers(layers, pipeline, expected):
    """BLOOM: 70 layers on 12 stages with embedding and head as one each; Llama 3 405B: 126 on 16
    with one fewer at both ends (arXiv:2407.21783, section 3.3.2)."""
    config = {"model_type": "gpt2", "n_layer": layers, "n_embd": 64, "n_head": 8}
    model = Model({**config, "vocab_size": 512})
    run = Run(model, sequence=1024, pipeline=pipeline, engine="megatron")
    assert [stage.layers for stage in stages(run)] == expected


def test_memory_is_a_number_of_bytes():
    run = replace(GPT3, pipeline=8, interleave=3, tensor=8, sequence_parallel=False, data=2, zero=1)
    found = memory(run)
    assert found.total == sum(found.phases[found.peak_phase].values())
    assert np.isfinite(found.total)


def test_attention_kernels_differ_in_time_alone():
    run = Run(LLAMA, sequence=4096, precision="bf16")
    assert replace(run, attention="Flash_2").attention == "flash-2"
    assert replace(run, attention="flash_attention_2").attention == "flash"
    assert memory(replace(run, attention="flash-3")).total == memory(run).total
    with pytest.raises(ValueError, match="attention: 'flash-4' given; allowed: 'flash', 'eager'"):
        replace(run, attention="flash-4")
