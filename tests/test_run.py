import dataclasses

import pytest

from sizing import Model, Run


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
        ("precision", "fp16"),
        ("gradients", "bf16"),
        ("optimizer", "adam"),
        ("recompute", True),
        ("attention", "sdpa"),
        ("zero", 4),
        ("zero", True),
        ("sequence", 2048),  # GPT-2 has 1024 learned positions
    ],
)
def test_bad_values_name_field_value_and_allowed(field, value):
    with pytest.raises(ValueError) as error:
        Run("gpt2", **{"sequence": 512, field: value})
    assert str(error.value).startswith(f"{field}: {value!r} given; allowed: ")
