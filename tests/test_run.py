import dataclasses

import numpy as np
import pytest

import sizing
from sizing import Lora, Model, Run


def test_counts():
    run = Run(
        "llama-3.1-8b",
        sequence=4096,
        micro_batch=2,
        accumulation=8,
        data=8,
        tensor=2,
        pipeline=4,
        context=2,
    )
    assert run.gpus == 8 * 2 * 4 * 2
    assert run.sequences == 2 * 8 * 8
    assert run.tokens == 128 * 4096


def test_is_a_value():
    run = Run(Model("gpt2"), sequence=512)
    assert run == Run("gpt2", sequence=512)
    assert hash(run) == hash(Run("gpt2", sequence=512))
    assert dataclasses.replace(run, zero=3).zero == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.zero = 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sequence", 0),
        ("sequence", 2.0),
        ("micro_batch", -1),
        ("accumulation", "8"),
        ("data", True),
        ("precision", "int4"),
        ("gradients", "bf16"),
        ("optimizer", "adamax"),
        ("recompute", "half"),
        ("recompute", 1),
        ("attention", "ring"),
        ("attention", True),
        ("zero", 4),
        ("zero", True),
        ("lora", 0),
        ("lora", -1),
        ("lora", 8.5),
        ("lora", True),
        ("lora", {"r": 8}),
        ("lora", "8"),
        ("quantization", "fp4"),
        ("kernels", "triton"),
        ("kernels", True),
        ("loss", "focal"),
        ("outputs", None),
        ("sequence", 2048),  # GPT-2 has 1024 learned positions
    ],
)
def test_bad_values_name_field_value_and_allowed(field, value):
    with pytest.raises(ValueError) as error:
        Run("gpt2", **{"sequence": 512, field: value})
    assert str(error.value).startswith(f"{field}: {value!r} given; allowed: ")


@pytest.mark.parametrize(
    ("field", "typed", "meant"),
    [
        ("precision", "float16", "fp16"),
        ("precision", "bf16_mixed", "bf16-mixed"),
        ("precision", "FP32", "fp32"),
        ("attention", "sdpa", "flash"),
        ("attention", "flash_attention_2", "flash"),
        ("optimizer", "adamw_torch", "adamw"),
        ("optimizer", "adamw_torch_fused", "adamw-fused"),
        ("optimizer", "paged_adamw_8bit", "paged-adamw-8bit"),
        ("recompute", True, "full"),
        ("recompute", False, "none"),
        ("micro_batch", np.int64(4), 4),
        ("lora", 16, Lora(16)),
        ("kernels", "torch.compile", "compiled"),
        ("loss", "CCE", "fused"),
    ],
)
def test_words_that_people_type_are_understood(field, typed, meant):
    run = Run("gpt2", **{"sequence": 512, field: typed})
    assert getattr(run, field) == meant
    assert type(getattr(run, field)) is type(meant)
    assert run == Run("gpt2", **{"sequence": 512, field: meant})


def test_an_unknown_word_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"precision: 'bf16-mix' given; .*; nearest: 'bf16-mixed'"):
        Run("gpt2", sequence=512, precision="bf16-mix")


def test_fp16_takes_the_bytes_of_bf16():
    for sixteen, like in (("fp16", "bf16"), ("fp16-mixed", "bf16-mixed")):
        run = Run("gpt2", sequence=512, precision=sixteen, data=2, zero=1)
        other = dataclasses.replace(run, precision=like)
        assert sizing.memory(run) == sizing.memory(other)
        assert sizing.communication(run) == sizing.communication(other)
        kept = sizing.saved_tensors(run)
        assert {t.dtype for t in kept} & {"fp16", "bf16"} == {"fp16"}
        assert [t.bytes for t in kept] == [t.bytes for t in sizing.saved_tensors(other)]
    with pytest.raises(ValueError, match="'bf16' given, for which"):
        sizing.step_time(dataclasses.replace(run, precision="bf16"), "v100-sxm-32gb")
    assert sizing.step_time(run, "v100-sxm-32gb").total > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank: 0 given; allowed: a whole number >= 1"),
        ({"targets": ()}, r"targets: \(\) given; allowed: 'all-linear', or names"),
        ({"targets": 5}, "targets: 5 given; allowed: 'all-linear', or names"),
        ({"dtype": "int8"}, "dtype: 'int8' given; allowed: 'fp32', 'bf16'"),
        ({"dropout": 1}, "dropout: 1 given; allowed: a number from 0, below 1"),
        ({"embeddings": ("norm",)}, "embeddings: 'norm' given; allowed: 'embed_tokens', 'lm_head'"),
    ],
)
def test_bad_adapters_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Lora(**{"rank": 8, **settings})


def test_adapters_name_layers_that_the_model_has():
    run = Run("llama-3.1-8b", lora=Lora(8, ["v_proj", "q_proj"]))
    assert run.lora == Lora(8, ("q_proj", "v_proj"))
    with pytest.raises(
        ValueError, match=r"targets: 'c_attn' given; .* layers of llama-3.1-8b: 'dow"
    ):
        Run("llama-3.1-8b", lora=Lora(8, ("c_attn",)))
    with pytest.raises(ValueError, match="quantization: 'nf4' given; allowed: None without lora"):
        Run("llama-3.1-8b", quantization="nf4")


def test_the_loss_comes_with_the_kernels():
    run = Run("gpt2", sequence=512)
    for kernels, loss in (("eager", "eager"), ("compiled", "compiled"), ("liger", "chunked")):
        assert dataclasses.replace(run, kernels=kernels).loss_kernel == loss
    assert dataclasses.replace(run, kernels="liger", loss="eager").loss_kernel == "eager"
