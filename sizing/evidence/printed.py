"""From a training run as its source prints it to a `Run`: the conventions of each source, resolved.

Sources name engines, precisions and recompute in their own words, leave out what is their default,
and print tokens/s, seconds a step or TFLOP/s with FLOPs counted in different ways. What each means
stands here, a function or a table entry a source, so that `data/published.csv` holds runs and
tokens per second alone. What a source does not print and is assumed is said in the row's `assumed`.
"""

from __future__ import annotations

import json

from ..architecture.model import Model
from . import recipes
from .printed_more import MORE as MORE

# The engine that ran it, by a piece of the words that the source has for it.
ENGINES = {
    "NeMo": "megatron",
    "Megatron-Bridge": "megatron",
    "Megatron-Core": "megatron",
    "Megatron-LM": "megatron",
    "Primus": "megatron",
    "XLA": "xla",
    "torchtitan": "torchtitan",
    "FSDP2": "torchtitan",
    "OLMo-core": "torchtitan",
    "FSDP1 over": "transformers",
    "PyTorch FSDP1": "fsdp",
    "DeepSpeed": "deepspeed",
    "transformers": "transformers",
    "InternEvo": "deepspeed",
    "PyTorch": "torchtitan",
}
# Whose weights are fp32, gathered and multiplied in bf16, gradients reduced in fp32: torchtitan
# (mixed_precision_param and _reduce), OLMo-core and AutoModel on FSDP2; MaxText (weight_dtype).
FP32_SHARDS = ("torchtitan", "FSDP2", "OLMo-core", "MaxText")
CARDS = {
    "h100_80gb": "h100-sxm",
    "a100_80gb": "a100-sxm-80gb",
    "a100_40gb": "a100-sxm-40gb",
    "H100": "h100-sxm",
    "A100": "a100-sxm-80gb",
    "GB200": "gb200",
    "GB300": "gb300",
    "B200": "b200-sxm",
    "B300": "b300-sxm",
    "MI300X": "mi300x",
    "H100 96GB HBM2e, 2.4 TB/s, 500 W": "h100-sxm-96gb",
}
# Bytes/s between nodes for each GPU where the row prints no network: an adapter of 400 Gbit/s for
# each (DGX H100, GB200 NVL72, OLMo's and torchtitan's clusters), of 200 on Selene's A100s,
# and of 800 on the B300s (glennklockwood.com, garden/processors/B300: ConnectX-8).
NETWORKS = {
    **{"h100": 50e9, "a100": 25e9, "gb200": 50e9, "b200": 50e9, "mi300x": 50e9},
    **{"gb300": 100e9, "b300": 100e9},
}
PRESETS = {
    "DeepSeekV3": "deepseek-v3",
    "Qwen3_30B_a3B": "qwen3-30b-a3b",
    "Qwen3 MoE 30B": "qwen3-30b-a3b",
    "Qwen3_235B_a22B": "qwen3-235b-a22b",
    "GPT OSS 120B": "gpt-oss-120b",
    "GPT-OSS 20B": "gpt-oss-20b",
    "DeepSeek V3 671B": "deepseek-v3",
    "Qwen2.5 32B": "qwen2.5-32b",
    "Mixtral 8x7B": "mixtral-8x7b",
    "Mixtral 8x22B": "mixtral-8x22b",
}
FP8 = {
    "amp_fp8": "delayed",
    "FP8": "delayed",
    "FP8-CS": "tensorwise",
    "FP8 (not printed)": "tensorwise",
    "FP8-CS (FP8-MX)": "tensorwise",
    "float8 tensorwise": "tensorwise",
    "float8": "tensorwise",
    "float8nocompile": "tensorwise",
    "float8 rowwise": "rowwise",
    "float8 rowwise_with_gw_hp": "rowwise",
    "MXFP8": "blockwise",
    "FP8-MX": "blockwise",
}
MPT_HEADS = {  # llm-foundry, scripts/train/yamls/pretrain/mpt-*.yaml
    "125m": 12, "350m": 16, "760m": 12, "1b": 16, "3b": 20, "7b": 32, "13b": 40, "30b": 64,
    "70b": 64,
}  # fmt: skip
MPT_VOCAB = 50368


class NotSayable(Exception):
    """Why a printed run is no `Run`."""


def row_of(printed: dict) -> dict:
    """The row of data/published.csv for a run as printed.

    Raises:
        NotSayable: with the reason.
    """
    reader = next((r for prefix, r in READERS if printed["source"].startswith(prefix)), _tidy)
    try:
        return reader(printed)
    except KeyError as missing:
        raise NotSayable(f"{missing} not printed") from None


def _tidy(p: dict) -> dict:
    """A row that already names its layout field by field."""
    if not any(key in p for key in ("tok_s_gpu", "sec_per_step")):
        raise NotSayable("no throughput")
    if p.get("precision") == "NVFP4":
        raise NotSayable("fp4 matmuls")
    if p["gpu"] not in CARDS:
        raise NotSayable(f"accelerator {p['gpu']}")
    if "gpus" not in p and "dp" not in p:
        p = {**p, "gpus": 64}
    card = CARDS[p["gpu"]]
    engine = next((to for word, to in ENGINES.items() if word in p["engine"]), None)
    if engine is None:
        raise NotSayable(f"engine {p['engine']}")
    tensor, pipeline, context = p.get("tp", 1), p.get("pp", 1), p.get("cp", 1)
    data = p["gpus"] // (tensor * pipeline * context)
    if not data or data * tensor * pipeline * context != p["gpus"]:
        raise NotSayable("degrees that do not multiply to the GPUs")
    assumed = []
    micro = p.get("micro_batch")
    if micro is None:
        micro = 1
        assumed.append("micro-batch 1")
    if "global_batch" in p:
        accumulation = max(1, p["global_batch"] // (micro * data))
    else:
        accumulation = p.get("grad_accum", 1)
    precision, fp8 = "bf16-master", FP8.get(p["precision"])
    if fp8 == "delayed" and p["engine"] == "Megatron-Bridge":
        fp8 = "tensorwise"  # current scaling: its recipes fp8_cs
    if p["precision"] not in FP8 and p["precision"] not in ("BF16", "bf16"):
        raise NotSayable(f"precision {p['precision']}")
    if p.get("weights") == "bf16":
        precision = "bf16"
    elif any(word in p["engine"] for word in FP32_SHARDS):
        precision = "bf16-mixed"
    recipe = recipes.said(p)
    recompute, said = _recompute(p)
    if "recompute" in recipe:
        recompute, said = recipe["recompute"], ["recompute as in the recipe of today"]
    assumed += said
    lora = _lora(p)
    document = 200 if _packs_squad(p) else ""
    if document:
        assumed.append("packed documents of 200 tokens, SQuAD's mean")
    zero, replicate, said = _zero(p, engine, data)
    assumed += said
    vp = p.get("vp") or 1
    if "other versions of the same recipe print" in p.get("note", ""):
        vp = int(p["note"].split()[-1])
        assumed.append(f"interleaved {vp} times, as other versions of the recipe print")
    if vp * pipeline > p.get("layers", 10**6):
        vp = 1
    attention = "flash"
    if engine == "fsdp":
        attention = "flash-2"  # fms runs torch's scaled_dot_product_attention
    sequence = p["seq"]
    seconds = p.get("sec_per_step")
    rate = p.get("tok_s_gpu")
    if rate is None:
        rate = micro * accumulation * data * sequence / seconds / p["gpus"]
    eager_kernels = p.get("compile") is False or p.get("variant") == "none"
    return {
        "id": p["id"],
        "source": p["source"],
        "printed_engine": p["engine"],
        "engine": "transformers" if engine == "torchtitan" and eager_kernels else engine,
        "gpu": card,
        "node": 72 if card in ("gb200", "gb300") else 8,  # NVL72
        "network": p["network_gbps_node"] / 64 * 1e9
        if "network_gbps_node" in p
        else NETWORKS[card.split("-")[0]],
        "model": _model(p),
        "name": p["model"],
        "sequence": sequence,
        "micro_batch": micro,
        "accumulation": accumulation,
        "precision": "fp8" if fp8 else precision,
        "scaling": fp8 or "",
        "replicate": replicate,
        "document": document,
        "optimizer": p.get("optimizer", "adamw-fused")
        if p.get("optimizer") == "muon"
        else "adamw-fused",
        "recompute": recompute,
        "attention": attention,
        "data": data,
        "zero": zero,
        "tensor": tensor,
        "pipeline": pipeline,
        "context": context,
        "expert": p.get("ep") or recipe.get("expert", 1),
        "dispatch": recipe.get("dispatch", ""),
        "overlap_dispatch": recipe.get("overlap_dispatch", False),
        "host": recipe.get("host", 1),
        "interleave": vp if pipeline > 1 else 1,
        "sequence_parallel": True,
        "lora": lora,
        "kernels": "liger" if p.get("variant", "").startswith(("foak", "liger")) else "eager",
        "tok_s_gpu": rate,
        "assumed": "; ".join(assumed),
    }


def _model(p: dict) -> str:
    name = p["model"].split(" (")[0]
    if "layers" not in p:
        if name == "DeepSeekV3" and "w/o MTP" not in p["model"]:
            return json.dumps(_with_prediction(Model(PRESETS[name]).config))
        if name in PRESETS:
            return PRESETS[name]
        raise NotSayable(f"shape of {p['model']}")
    if p["gated"] or p["kv_heads"] != p["heads"]:
        config = {
            # Nemotron: an ungated MLP with grouped heads
            "model_type": "llama" if p["gated"] else "nemotron",
            "num_hidden_layers": p["layers"],
            "hidden_size": p["hidden"],
            "num_attention_heads": p["heads"],
            "num_key_value_heads": p["kv_heads"],
            "intermediate_size": p["ffn"],
            "vocab_size": p["vocab"],
            "tie_word_embeddings": p["tied"],
        }
    else:
        config = _gpt(p["layers"], p["hidden"], p["heads"], p["vocab"], p["seq"], p["ffn"])
    return json.dumps(config)


def _with_prediction(config: dict) -> dict:
    """DeepSeek-V3 with its second prediction (arXiv:2412.19437, section 2.2), a layer and a second
    head: 4 % more FLOPs, as the source's TFLOP/s over tokens/s say, which three layers have."""
    return {**config, "num_hidden_layers": config["num_hidden_layers"] + 3}


def _gpt(layers, hidden, heads, vocab, length, ffn=None) -> dict:
    config = {
        "model_type": "gpt2",
        "n_layer": layers,
        "n_embd": hidden,
        "n_head": heads,
        "vocab_size": vocab,
        "n_positions": length,
    }
    return {**config, "n_inner": ffn} if ffn and ffn != 4 * hidden else config


def _recompute(p: dict) -> tuple[str, list[str]]:
    said = str(p.get("recompute", "none"))
    if said in ("none", "full"):
        return said, []
    if said in ("selective op", "selective", "budget 0.5") or said.startswith("selective layer"):
        if p.get("hfu_over_mfu", 0) > 1.25:
            return "full", ["HFU over MFU says that nearly every layer is recomputed"]
        return "selective", [f"recompute {said!r} as per-operation"]
    if said == "best found":
        large = p.get("hidden", 0) >= 8192
        return ("full" if large else "none"), ["recompute: the best found, not printed"]
    if said in ("not printed", "unknown"):
        usual = "full" if "XLA" in p["engine"] else "none"
        return usual, [f"recompute {usual}"]
    if said == "save_dot_except_mlp":  # norms are no products either
        return "mlp input_layernorm post_attention_layernorm", []
    if said == "save_qkv_proj":
        return "full", [f"recompute {said!r} as full"]
    return "none", [f"recompute {said!r} as none"]  # XLA's minimal: products are kept


def _zero(p: dict, engine: str, data: int) -> tuple[int, int, list[str]]:
    """(ZeRO stage, replicas, what is assumed): how many ranks share a copy is a number in the
    words, if they say it."""
    words = p.get("sharding", "")
    part = any(word in words for word in ("+", "HSDP", "within", "over")) and "all" not in words
    shards = next((int(word) for word in words.split() if word.isdecimal()), None)
    replicate = data // shards if part and shards and data % shards == 0 else 1
    said = ["sharded over all ranks"] if part and not shards else []
    if "FSDP" in words or "ZeRO-3" in words or "HSDP" in words:
        return 3, replicate, said
    if "ZeRO-1" in words or "distributed optimizer" in words or engine == "megatron":
        return 1, replicate, said
    return (1 if "sharded" in words else 0), 1, []


def _packs_squad(p: dict) -> bool:
    """NVIDIA's fine-tuning recipes pack SQuAD, whose passage and question have about 130 words."""
    return "ft_llama3" in p["source"] or (p["engine"] == "Megatron-Bridge" and bool(_lora(p)))


def _lora(p: dict) -> str:
    """Adapters as data/published.csv writes them: rank and adapted layers, "" without any.

    NeMo's recipes in performance mode adapt queries, keys and values alone (target_modules
    linear_qkv), fms-acceleration's benchmarks attention's four layers with dropout
    (scripts/benchmarks/scenarios.yaml); Qwen's script of 2023 has adapters in 16 bits with dropout
    (finetune.py, peft before 0.11).
    """
    said = p.get("note") == "LoRA" or p.get("what", "").endswith("LoRA")
    rank = p.get("lora") or (16 if said else None)
    if rank is None:
        return ""
    fused = p["engine"] in ("NeMo", "Megatron-Bridge")
    targets = "q_proj k_proj v_proj" if fused else ""
    if p["source"].startswith("foundation-model-stack"):
        targets = "dropout=0.1 q_proj k_proj v_proj o_proj"
    if p["source"].startswith("QwenLM/Qwen"):
        targets = "dtype=bf16 dropout=0.05"
    return f"{rank} {targets}".strip()


# --- Sources with a form of their own ------------------------------------------------------------


def _mpt(p: dict) -> dict:
    """llm-foundry: FSDP1 through Composer, attention in Triton (attn_impl: triton)."""
    size = p["model"].split("-")[1]
    fp8 = FP8.get(p["precision"])
    return {
        **_tidy(
            {
                **p,
                "engine": "PyTorch FSDP1",
                "precision": p["precision"] if fp8 else "BF16",
                "layers": p["n_layers"],
                "hidden": p["d_model"],
                "heads": MPT_HEADS[size],
                "kv_heads": MPT_HEADS[size],
                "ffn": 4 * p["d_model"],
                "gated": False,
                "vocab": MPT_VOCAB,
                "tied": True,
                "sharding": "FSDP",
                "recompute": "full" if p["act_ckpt"] else "none",
            }
        ),
        "printed_engine": "Composer, FSDP1",
        "attention": "flash-1",
        "precision": "fp8" if fp8 else "bf16" if p["mp_mode"] == "PURE" else "bf16-master",
        "zero": 3 if p["sharding"] == "FULL_SHARD" else 2,
    }


def _titan(p: dict) -> dict:
    """torchtitan's report prints each table's layout in a sentence."""
    setup, how = p["setup"], p["technique"]
    known = {
        "Table 1": dict(model="llama-3.1-8b", gpus=8, micro_batch=2),
        "Table 2": dict(model="llama-3.1-8b", gpus=8, micro_batch=1, recompute="full"),
        "Table 3": dict(model="llama-3.1-8b", gpus=128, micro_batch=2),
        "Table 4": dict(model="llama-3.1-70b", gpus=256, micro_batch=16, tp=8, recompute="full"),
        "Table 5": dict(model="llama-3.1-405b", gpus=512, tp=8, pp=8, recompute="full"),
        "Table 6": dict(model="llama-3.1-405b", gpus=512, tp=8, pp=8, recompute="full"),
    }[p["what"].removeprefix("torchtitan ")]
    context = int(how.split("CP")[1].split()[0]) if "CP" in how else 1
    sequence = int(how.split("seq ")[1]) if "seq" in how else 8192
    many = {"Table 5": 32, "Table 6": 8}.get(p["what"].removeprefix("torchtitan "))
    name = known.pop("model")
    row = _tidy(
        {
            "id": p["id"],
            "source": p["source"],
            "model": name,
            "engine": "torchtitan",
            "gpu": "H100 96GB HBM2e, 2.4 TB/s, 500 W",
            "precision": "float8 tensorwise" if "float8" in setup + how else "BF16",
            "seq": sequence,
            "sharding": "FSDP2",
            "recompute": "selective op",
            "compile": "compile" in setup + how or "TP" in setup,
            "cp": context,
            "tok_s_gpu": p["tps_per_gpu"],
            "layers": 1,
            "hidden": 1,
            "heads": 1,
            "kv_heads": 1,
            "ffn": 1,
            "gated": True,
            "vocab": 1,
            "tied": False,
            **({"micro_batch": 1, "grad_accum": many} if many else {}),
            **known,
        }
    )
    return {
        **row,
        "model": name,
        "interleave": 2 if how == "Interleaved 1F1B" else 1,
        "assumed": "the local batch of a pipeline in micro-batches of 1" if many else "",
    }


READERS = (
    ("mosaicml/llm-foundry", _mpt),
    ("pytorch/torchtitan:benchmarks", _titan),
)
