"""What the recipes say that NVIDIA's tables of mixtures do not print.

Their pages name the recipes that made them: NVIDIA-NeMo/Megatron-Bridge,
scripts/performance/configs (deepseek, gpt_oss, qwen3: workload_base_configs.py, at several
commits), and NVIDIA-NeMo/Automodel, examples/llm_benchmark; read 2026-12-01. `dispatch`,
`overlap_dispatch`, `expert` and `recompute` are fields of `Run`; `host` is 0 where CUDA graphs hold a whole step (cuda_graph_scope full_iteration).
"""

from __future__ import annotations

GRACE = ("GB200", "GB300")  # in NVL72 racks
MIXTURES = ("DeepSeekV3", "GPT OSS", "Qwen3_30B", "Qwen3_235B")


def said(p: dict) -> dict:
    """Fields of a row that its recipe says, of mixtures alone."""
    if p.get("engine") == "Megatron-Bridge" and p["model"].startswith(MIXTURES):
        return _bridge(p, _release(p["what"]))
    if p["source"].startswith("NVIDIA-NeMo/Automodel"):
        return _automodel(p)
    return {}


def _release(what: str) -> tuple[int, ...]:
    """(26, 2, 1) of "Megatron-Bridge 26.02.01 Pre-Training"."""
    return tuple(map(int, what.split()[1].split(".")))


def _bridge(p: dict, release: tuple[int, ...]) -> dict:
    model, card = p["model"], p["gpu"]
    micro_scaled = p["precision"] in ("MXFP8", "FP8-MX")
    if "tokendrop" in model:  # fixed shapes: no count of tokens is waited for
        captured = card != "H100" and model.startswith("Qwen3")
        return {"dispatch": "all-to-all", "host": 0 if captured else 1}
    # moe_paged_stash and experts' products in one kernel let graphs hold a whole step
    found = {"host": 0 if release >= (26, 6) and card in GRACE and micro_scaled else 1}
    if model.startswith("DeepSeekV3"):
        found["dispatch"] = "deepep"
        found["overlap_dispatch"] = not found["host"] or (card == "B200" and p.get("ep", 1) > 8)
    elif model.startswith("GPT OSS"):
        flexible = (card != "H100" and release >= (26, 4)) or (
            card == "B300" and release >= (26, 2, 1)
        )
        found["dispatch"] = "deepep" if flexible else "all-to-all"
        found["overlap_dispatch"] = card == "GB200" and release >= (26, 4)
    elif model.startswith("Qwen3_30B"):
        found["dispatch"] = "deepep" if release >= (26, 4) else "all-to-all"
        found["overlap_dispatch"] = card == "H100" and release <= (26, 2)
    else:
        found["dispatch"] = "deepep" if card in GRACE else "all-to-all"
        found["overlap_dispatch"] = card == "H100"
    return found


def _automodel(p: dict) -> dict:
    """activation_checkpointing and ep_size of its yaml files; all dispatch by DeepEP."""
    if p["model"].startswith("GPT-OSS"):
        return {"dispatch": "deepep", "expert": min(64, p["gpus"])}
    if p["model"].startswith(("DeepSeek", "Qwen3 MoE", "Kimi")):
        return {"dispatch": "deepep", "recompute": "full"}
    return {}
