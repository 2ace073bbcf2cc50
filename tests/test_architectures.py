"""Every family and every config of the review: real models, words for what is wrong, traces."""

import json
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference import build, random_config

import sizing
from sizing import Model, Run, flops, presets, trace
from sizing.architecture.families import FAMILIES
from sizing.architecture.fields import DEFAULTS_FILE, known
from sizing.architecture.reading import hub_ids
from sizing.footprint import memory
from sizing.trace import memory as traced
from sizing.trace import patience, tracker

L = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}

GPT2 = {"model_type": "gpt2", "vocab_size": 1000, "n_embd": 128, "n_layer": 2, "n_head": 8}
OPT = {
    "model_type": "opt",
    "vocab_size": 1000,
    "hidden_size": 128,
    "ffn_dim": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "max_position_embeddings": 256,
}
QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MIXTRAL = {**QWEN3_MOE, "model_type": "mixtral", "sliding_window": 32, "num_local_experts": 4}


def small(family: str, seed) -> dict:
    config = random_config(family, random.Random(f"{family}{seed}"))
    for name in ("n_positions", "max_position_embeddings"):
        if name in config:
            config[name] = 512
    return config


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_flops_of_formula_and_trace_agree(family, recompute):
    run = Run(Model(small(family, recompute)), sequence=40, micro_batch=2, recompute=recompute)
    assert flops(run) == trace.flops(run)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kinds_of_layer_in_their_order(family):
    for seed in range(8):
        model = Model(small(family, seed))
        counts = {block: model.by_layer.count(block) for block in model.blocks}
        assert counts == {block: block.count for block in model.blocks}


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["flash", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_peaks_of_formula_and_trace_agree(family, attention):
    config = small(family, f"peak{attention}")
    if family == "falcon":
        config["multi_query"] = False  # see test_falcon_without_a_fused_kernel
    run = Run(Model(config), sequence=160, micro_batch=2, optimizer="sgd", attention=attention)
    assert memory(run).total == pytest.approx(traced(run).total, rel=0.02)


DEEPSEEK = {
    "model_type": "deepseek_v3",
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}


@pytest.mark.parametrize(
    ("config", "attention"),
    [
        ({**GPT2, "n_positions": 512, "reorder_and_upcast_attn": True}, "eager"),
        ({**OPT, "layerdrop": 0.1}, "flash"),
        ({**OPT, "layer_norm_elementwise_affine": False}, "eager"),
        ({**QWEN3_MOE, "num_experts": 16, "output_router_logits": True}, "flash"),
        ({**MIXTRAL, "router_jitter_noise": 0.1}, "flash"),
        ({**MIXTRAL, "model_type": "gemma2", "attn_logit_softcapping": None}, "flash"),
        ({**DEEPSEEK, "v_head_dim": 32}, "flash"),
        ({**DEEPSEEK, "v_head_dim": 8, "n_shared_experts": 2}, "eager"),
    ],
)
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16"])
def test_rare_fields_cost_what_the_trace_says(config, attention, precision):
    options = {"attention": attention, "precision": precision, "optimizer": "sgd"}
    run = Run(config, sequence=64, micro_batch=2, **options)
    assert memory(run).total == pytest.approx(traced(run).total, rel=0.003)


def test_falcon_without_a_fused_kernel():
    config = {**random_config("falcon", random.Random(1)), "new_decoder_architecture": False}
    config |= {"multi_query": True, "num_ln_in_parallel_attn": None, "num_kv_heads": None}
    with pytest.raises(ValueError, match="attention: 'flash' given; allowed: 'eager'"):
        memory(Run(Model(config), sequence=64))


def test_defaults_are_those_of_transformers():
    from sizing.trace.defaults import defaults

    assert json.loads(DEFAULTS_FILE.read_text()) == json.loads(json.dumps(defaults()))


# -- numbers that were wrong (section A)


def test_experts_are_counted_in_the_trace():
    run = Run(Model("mixtral-8x7b").replace(num_hidden_layers=2), sequence=128, precision="bf16")
    assert trace.flops(run).forward == flops(run).forward == 235_971_543_040


@pytest.mark.parametrize(
    ("outer", "total"),
    [
        ({"model_type": "llava", "tie_word_embeddings": True}, 25_301_504),
        ({"model_type": "llava"}, 41_685_504),
        ({"model_type": "mistral3", "tie_word_embeddings": False}, 41_685_504),
        ({"model_type": "mistral3"}, 25_301_504),
    ],
)
def test_the_whole_model_decides_whether_the_head_is_tied(outer, total):
    model = Model({**outer, "text_config": L})
    assert model.parameters.total == total
    assert "text model of" in repr(model) and "not counted" in " ".join(model.notes)


def test_a_reward_model_has_another_head():
    config = {**json.loads(json.dumps(Model("llama-3.1-8b").config)), "num_labels": 1}
    model = Model({**config, "architectures": ["LlamaForSequenceClassification"]})
    assert model.parameters.total == 7_504_928_768
    assert Model({**L, "architectures": ["LlamaModel"]}).parameters.head == 0
    for measure in (memory, traced):
        with pytest.raises(ValueError, match="architectures"):
            measure(Run(model, sequence=64))
    with pytest.raises(ValueError, match="draft head"):
        Model({**L, "architectures": ["LlamaForCausalLMEagle3"]})


@pytest.mark.parametrize(
    "config",
    [
        {**GPT2, "n_positions": 64, "add_cross_attention": True},
        {**OPT, "_remove_final_layer_norm": True},
        {**GPT2, "hidden_size": 256, "n_embd": 128},
        {**QWEN3_MOE, "num_local_experts": 16, "num_experts": 8},
        {**QWEN3_MOE, "num_experts": 8, "num_local_experts": 16},
        QWEN3_MOE,
    ],
)
def test_rare_fields_count_as_in_transformers(config):
    total = sum(p.numel() for p in build(config).parameters())
    assert Model(config).parameters.total == total


def test_what_a_config_says_of_running_does_not_count():
    plain = {**GPT2, "n_positions": 512}
    switched = {**plain, "gradient_checkpointing": True, "return_dict": False}
    runs = [Run(c, sequence=128, optimizer="sgd", attention="eager") for c in (plain, switched)]
    assert traced(runs[0]).total == traced(runs[1]).total
    assert trace.flops(runs[1]).recompute == 0


# -- what is read (section B)


def test_a_text_config_that_leaves_sizes_out():
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240}
    text |= {"num_hidden_layers": 34, "sliding_window": 1024}
    model = Model({"model_type": "gemma3", "text_config": text})
    assert model.parameters.total == 3_880_263_168
    assert any("vocab_size 262208" in note for note in model.notes)


def test_files_folders_text_and_ids(tmp_path):
    expected, text = Model(L), json.dumps(L)
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "wide.json").write_bytes(text.encode("utf-16"))
    for source in (tmp_path, tmp_path / "config.json", tmp_path / "wide.json", text, f" {text}\n"):
        assert Model(source) == expected
    assert Model("meta-llama/Llama-3.1-8B-Instruct") == Model("Llama-3.1-8b.json")
    assert Model({**L, "model_type": " Llama"}) == expected
    assert Model("qwen3-30b-a3b").replace(num_experts=64).config["num_local_experts"] == 64
    without = {key: value for key, value in L.items() if key != "num_key_value_heads"}
    with pytest.raises(ValueError, match="assumed"):
        Model({**without, "model_type": "qwen2", "num_attention_heads": 14, "hidden_size": 896})


def test_old_and_foreign_configs():
    meta = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256}
    meta |= {"ffn_dim_multiplier": 1.3, "multiple_of": 1024, "norm_eps": 1e-5}
    assert Model(meta).parameters.total == 8_030_261_248
    mistral = {"dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32}
    mistral |= {"n_kv_heads": 8, "vocab_size": 32000}
    assert Model(mistral).parameters == Model("mistral-7b").parameters
    old = {k: v for k, v in GPT2.items() if k != "model_type"}
    assert Model({**old, "architectures": ["GPT2LMHeadModel"]}) is not None
    mlc = {"model_type": "llama", "quantization": "q4", "model_config": L}
    assert Model(mlc).parameters == Model(L).parameters
    qwen = {**L, "model_type": "qwen2_5_vl", "vision_config": {"depth": 2}}
    assert Model(qwen).family == "qwen2"
    assert Model({**L, "model_type": "qwen3_vl_text"}).family == "qwen3"


@pytest.mark.parametrize("name", presets())
def test_hub_ids_are_unique_and_understood(name):
    ids = [i for i, preset in hub_ids().items() if preset == name]
    for identifier in ids:
        assert Model(identifier) == Model(name)
    assert "mistralai/mistral-7b-v0.2" not in hub_ids()


# -- what is refused, in words (sections C and D)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({**L, 1: 2}, ["1 given", "text"]),
        ({**L, None: 2}, ["None given"]),
        ("[" * 100000 + "]" * 100000, ["nests too deeply"]),
        ({"peft_type": "LORA", "base_model_name_or_path": "a/b"}, ["adapter", "a/b"]),
        ({"tokenizer_class": "X"}, ["tokenizer"]),
        ({"temperature": 0.6, "top_p": 0.9}, ["generation"]),
        ({"quantization": {}, "producer": {}}, ["quantization"]),
        ({"general.architecture": "llama"}, ["GGUF"]),
        ({"model": {"hidden_size": 3}}, ["one level down", "'model'"]),
        ({**L, "model_type": "lama"}, ["unknown architecture 'lama'", "near it: llama"]),
        ({**L, "model_type": "nemotron_h"}, ["sizing.trace.model"]),
        ({**L, "model_type": "baichuan", "auto_map": {}}, ["code comes with the model"]),
        ("some-org/some-model", ["Hub id", "nothing is looked up"]),
        ("https://example.org/config.json", ["address", "paste"]),
        ("/no/such/folder/llama.json", ["no preset and no file"]),
        (
            {**L, "layer_types": 3, "model_type": "qwen3", "use_sliding_window": True},
            ["layer_types"],
        ),
        ({**L, "hidden_size": int("9" * 4000)}, ["hidden_size", "allowed"]),
    ],
)
def test_what_is_no_config_is_told_what_it_is(source, words):
    with pytest.raises(ValueError) as error:
        Model(source)
    assert type(error.value) is ValueError and len(str(error.value)) < 1200
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["m.gguf", "m.safetensors", "m.bin", "latin.json"])
def test_files_that_are_no_text(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(ValueError, match=name):
        Model(path)


@pytest.mark.parametrize(
    "change",
    [
        {"return_dict": False},
        {"use_return_dict": True},
        {"rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]}},
        {"rope_scaling": {"type": "ntk", "factor": 2}},
        {"pad_token_id": 32000},
        {"pad_token_id": [1, 2]},
        {"rms_norm_eps": "1e-6"},
        {"initializer_range": 0},
        {"rope_scaling": "linear"},
        {"head_dim": 63},
    ],
)
def test_a_trace_takes_the_config_or_says_why_not(change):
    try:
        run = Run({**L, **change}, sequence=32, optimizer="sgd")
        assert traced(run, device="cpu").total > 0
    except ValueError as error:
        assert "config" in str(error) or "head_dim" in str(error)


# -- the traced fall-back


@pytest.mark.parametrize(
    "name", ["llama-3.2-1b", "mixtral-8x7b", "deepseek-v3", "gpt2", "opt-350m"]
)
def test_traced_parameters_are_the_formulas(name):
    assert trace.model(name).parameters == Model(name).parameters


def test_a_model_without_a_formula():
    config = {"model_type": "mamba2", "vocab_size": 500, "hidden_size": 64, "head_dim": 16}
    config |= {"num_hidden_layers": 2, "num_heads": 8, "state_size": 16, "n_groups": 2}
    with pytest.raises(ValueError, match=r"sizing\.trace\.model"):
        Model(config)
    model = trace.model(config)
    assert model is trace.model(dict(config))
    total = sum(p.numel() for p in build(config).parameters())
    assert model.parameters.total == total
    assert any("kernels" in limit for limit in model.limits)
    run = Run(model, sequence=64)
    assert trace.flops(run).recompute == 0 and trace.flops(run).backward > 0
    assert traced(run).total > 16 * total
    for formula in (sizing.memory, sizing.flops):
        with pytest.raises(ValueError, match="no formula for 'mamba2'"):
            formula(run)


@pytest.mark.parametrize("family", ["jetmoe", "longcat_flash", "xlm"])
def test_a_step_whose_code_asks_for_values(family):
    config = {"model_type": family, "vocab_size": 100, "hidden_size": 32} | {
        "jetmoe": {"num_hidden_layers": 2, "num_key_value_heads": 2, "kv_channels": 8}
        | {"intermediate_size": 64, "num_local_experts": 4, "num_experts_per_tok": 2},
        "longcat_flash": {"num_layers": 2, "num_hidden_layers": 4, "num_attention_heads": 4}
        | {"ffn_hidden_size": 64, "q_lora_rank": 16, "kv_lora_rank": 16, "head_dim": 8}
        | {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "qk_head_dim": 16}
        | {"moe_topk": 2, "n_routed_experts": 6, "zero_expert_num": 2}
        | {"expert_ffn_hidden_size": 16},
        "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128},
    }[family]
    model = trace.model(config)
    run = Run(model, sequence=64, attention="eager", optimizer="sgd")
    counted = trace.flops(run)
    assert counted.backward == 2 * counted.forward > 0
    assert traced(run).total > 8 * model.parameters.total
    if family == "jetmoe":
        torch.manual_seed(0)
        step = trace.Step(run, attention="eager")  # on real tensors
        step.batch = torch.randint(0, 100, (1, 64))
        with trace.flop_counter() as counter:
            step.forward()
        assert counter.get_total_flops() == counted.forward
        with pytest.raises(ValueError, match="sequence: 63 given"):
            trace.flops(replace(run, sequence=63))


@pytest.mark.parametrize("family", ["xmod", "modernbert-decoder"])
def test_a_traced_step_is_the_real_one(family):
    config = {"model_type": family, "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3}
    config |= {"num_attention_heads": 4, "intermediate_size": 64, "pad_token_id": 0}
    if family == "xmod":
        config |= {"is_decoder": True, "languages": ["de_DE", "en_XX"]}
        with pytest.raises(ValueError, match="default_language"):
            trace.flops(Run(trace.model(config), sequence=32))
        config |= {"default_language": "en_XX"}
    options = {"precision": "fp32", "attention": "eager", "optimizer": "sgd"}
    run = Run(trace.model(config), sequence=32, micro_batch=2, **options)
    step = trace.Step(run, attention="eager")  # on real tensors
    step.batch = torch.randint(3, 100, (2, 32))
    with trace.flop_counter() as ahead:
        loss = step.forward()
    with trace.flop_counter() as back:
        loss.backward()
    counted = trace.flops(run)
    assert counted.forward == ahead.get_total_flops() > 0
    assert counted.backward == back.get_total_flops()
    assert traced(run).total > 8 * run.model.parameters.total


def test_a_step_that_no_trace_can_follow():
    config = {"model_type": "git", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "intermediate_size": 64}
    model = trace.model(config)
    assert model.parameters.total > 0
    assert any("picture" in limit for limit in model.limits)
    with pytest.raises(ValueError, match="cannot be traced"):
        traced(Run(model, sequence=32))


def test_families_that_have_a_formula_are_known_to_transformers():
    assert set(FAMILIES) <= set(known()["families"])


def test_the_readme_has_the_table_of_today():
    from sizing.trace.coverage import table

    assert table() in (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_a_wait_shows_itself_after_two_seconds(capfd, monkeypatch):
    monkeypatch.delenv("SIZING_RECORDED", raising=False)
    monkeypatch.setattr(patience, "SILENT", 0.05)
    with patience.waiting("tracing mamba2"):
        time.sleep(0.3)
    assert "tracing mamba2: 0 s" in capfd.readouterr().err
    with patience.waiting("quick"):
        pass
    assert "quick" not in capfd.readouterr().err


def test_a_torch_that_does_not_tell_who_holds_a_tensor(monkeypatch):
    monkeypatch.setattr(tracker, "_uses", lambda tensor: 0)
    tracker._held_alone.cache_clear()
    run = Run({**L, "tie_word_embeddings": True}, sequence=64, optimizer="sgd")
    told = traced(run).total
    tracker._held_alone.cache_clear()
    assert told == pytest.approx(memory(run).total, rel=1e-3)
