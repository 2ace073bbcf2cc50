"""DeepSpeed's own estimates of model states (`estimate_zero2_model_states_mem_needs` and its twin
for stage 3, the live-tensor helpers of its documentation), against the formula.

ZeRO-Offload (arXiv:2101.06840, section 3): of 16 bytes a parameter the GPU keeps 2, the host 14.
"""

import pytest

import sizing

estimates = pytest.importorskip("deepspeed.runtime.zero.stage3", exc_type=ImportError)
two = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2", exc_type=ImportError)
SIZES = ["gpt2-xl", "llama-3.1-8b", "pythia-2.8b"]


def run(name: str, gpus: int, zero: int, **more) -> sizing.Run:
    recipe = {"precision": "bf16-master", "gradients": "fp32", "optimizer": "adamw-fused"}
    return sizing.Run(name, sequence=256, data=gpus, zero=zero, **recipe, **more)


def state(memory) -> int:
    return memory.parameters + memory.gradients + memory.optimizer


@pytest.mark.parametrize("gpus", [2, 8])
@pytest.mark.parametrize("name", SIZES)
def test_stage_3_divides_18_bytes_a_parameter(name, gpus):
    """DeepSpeed adds the fp32 copy of the largest layer, which is no model state here."""
    total = sizing.Model(name).parameters.total
    _, on_gpu, layer = estimates.estimate_zero3_model_states_mem_needs(
        total, 10**8, gpus, cpu_offload=False
    )
    assert state(sizing.memory(run(name, gpus, 3))) == pytest.approx(on_gpu - layer, rel=1e-3)


@pytest.mark.parametrize("gpus", [2, 8])
@pytest.mark.parametrize("name", SIZES)
def test_stage_2_keeps_the_weights_whole(name, gpus):
    """DeepSpeed counts gradients in 16 and in 32 bits; `gradients="fp32"` is the second alone."""
    total = sizing.Model(name).parameters.total
    _, on_gpu = two.estimate_zero2_model_states_mem_needs(total, gpus, cpu_offload=False)
    expected = on_gpu - 2 * total / gpus
    assert state(sizing.memory(run(name, gpus, 2))) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", SIZES)
def test_zero_offload_leaves_two_bytes_a_parameter_on_the_gpu(name):
    total = sizing.Model(name).parameters.total
    _, on_gpu = two.estimate_zero2_model_states_mem_needs(total, 8, cpu_offload=True)
    recipe = {"precision": "bf16-master", "optimizer": "adamw-fused", "offload": ("optimizer",)}
    memory = sizing.memory(sizing.Run(name, sequence=256, data=8, zero=2, **recipe))
    assert memory.parameters + memory.optimizer == pytest.approx(on_gpu, rel=1e-3)
    assert memory.host == pytest.approx(14 * total / 8, rel=1e-3)
