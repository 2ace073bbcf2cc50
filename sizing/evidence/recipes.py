"""What the recipes say that NVIDIA's tables of mixtures do not print.

Their pages name the recipes that made them: NVIDIA-NeMo/Megatron-Bridge, scripts/performance/
configs (deepseek, gpt_oss, qwen3: workload_base_configs.py, at several commits) and
src/megatron/bridge/perf_recipes; NVIDIA-NeMo/Automodel, examples/llm_benchmark; read 2026-12-01.
`dispatch`, `overlap_dispatch`, `expert` and `recompute` are fields of `Run`; `host` is 0 where CUDA
graphs hold a whole step (cuda_graph_impl "full_iteration", or scope "full_iteration").
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
    if "tokendrop" in model:  # as many tokens for each expert: no count of them is waited for
        captured = card != "H100" and model.startswith("Qwen3")
        return {"dispatch": "all-to-all", "host": 0 if captured else 1}
    if release >= (26, 6) and card in GRACE and p["precision"] == "MXFP8":
        # moe_paged_stash and fused experts let graphs hold a step (_enable_hybridep_full_iteration)
        return {"dispatch": "deepep", "overlap_dispatch": True, "host": 0}
    if model.startswith("DeepSeekV3"):
        return {"dispatch": "deepep", "overlap_dispatch": card == "B200" and p["ep"] > 8}
    if model.startswith("GPT OSS"):
        flexible = release >= (26, 4) or (card == "B300" and release >= (26, 2, 1))
        return {
            "dispatch": "deepep" if card != "H100" and flexible else "all-to-all",
            "overlap_dispatch": card == "GB200" and release >= (26, 4),
        }
    if model.startswith("Qwen3_30B"):
        return {
            "dispatch": "deepep" if release >= (26, 4) else "all-to-all",
            "overlap_dispatch": card == "H100" and release <= (26, 2),
        }
    return {
        "dispatch": "deepep" if card in GRACE else "all-to-all",
        "overlap_dispatch": card == "H100",
    }


def _automodel(p: dict) -> dict:
    """activation_checkpointing and ep_size of its yaml files; all dispatch by DeepEP."""
    if p["model"].startswith("GPT-OSS"):
        return {"dispatch": "deepep", "expert": min(64, p["gpus"])}
    if p["model"].startswith(("DeepSeek", "Qwen3 MoE", "Kimi")):
        return {"dispatch": "deepep", "recompute": "full"}
    return {}
