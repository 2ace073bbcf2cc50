"""A real step of TRL's DPOTrainer on this machine, allocation by allocation."""

from __future__ import annotations

import gc
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from unittest.mock import patch

import torch

from ..run import Run
from . import build
from .allocations import cpu_events, optimizer_tensors, storage_bytes

PAD, END, WORD = 0, 1, 2  # token numbers; their values change no size


def preference_peak(run: Run) -> tuple[int, dict[str, int]]:
    """Peak of a steady step of `trl.DPOTrainer`, and bytes that stay between steps, by kind.

    Half of each sequence is the prompt, and all are as long as the run's: nothing is padded. What
    the trainer does by default beside the run's settings stays: metrics of entropy, accuracy and
    mean logits with every step.

    Args:
        run: one GPU's, objective a `Dpo`; trl (and peft for adapters) must be installed.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        trainer = _trainer(run, folder)
        step, model, batch = _step_of(trainer, run)
        step()
        step()  # the first has made the optimizer's state
        gc.collect()
        models = [model, trainer.ref_model] if trainer.ref_model is not None else [model]
        weights = [t for m in models for t in (*m.parameters(), *m.buffers())]
        trained = [p for p in model.parameters() if p.requires_grad]
        held = {
            "parameters": storage_bytes(*weights),
            "gradients": storage_bytes(*trained),
            "optimizer": storage_bytes(*optimizer_tensors(trainer.optimizer.state)),
            "batch": storage_bytes(*batch),
        }
        above = max(accumulate((event.bytes for event in cpu_events(step)), initial=0))
        return held["parameters"] + held["optimizer"] + held["batch"] + above, held


def _trainer(run: Run, folder: str):
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    words = {"<pad>": PAD, "<end>": END, "word": WORD}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="word")),
        pad_token="<pad>",
        eos_token="<end>",
    )
    adapters = None
    if run.lora is not None:
        import peft

        targets = run.lora.targets
        adapters = peft.LoraConfig(
            r=run.lora.rank,
            target_modules=targets if targets == "all-linear" else list(targets),
            lora_dropout=run.lora.dropout,
            task_type="CAUSAL_LM",
        )
    plain = replace(run, lora=None, recompute="none", objective="lm", precision=_loaded(run))
    reference = run.objective.reference
    half, more = run.sequence // 2, run.sequence - run.sequence // 2
    pair = {
        "prompt": "word",
        "chosen": "word",
        "rejected": "word",
        "prompt_ids": [WORD] * half,
        "chosen_ids": [WORD] * more,
        "rejected_ids": [WORD] * more,
    }
    settings = DPOConfig(
        folder,
        per_device_train_batch_size=run.micro_batch,
        max_length=run.sequence,
        precompute_ref_log_probs=reference == "precomputed",
        bf16=run.recipe.autocast,
        gradient_checkpointing=run.recompute == "full",
        optim={"adamw": "adamw_torch", "sgd": "sgd"}.get(run.optimizer, "adamw_torch_fused"),
        **{"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True},
        **{"remove_unused_columns": False, "dataloader_pin_memory": False, "max_grad_norm": 0.0},
    )
    with patch.object(DPOTrainer, "_prepare_dataset", lambda self, data, *args: data):
        return DPOTrainer(
            model=build.model(plain),
            ref_model=build.model(plain) if reference == "model" else None,
            args=settings,
            train_dataset=Dataset.from_list([pair] * run.micro_batch),
            processing_class=tokenizer,
            peft_config=adapters,
        )


def _loaded(run: Run) -> str:
    """The precision in which weights are loaded: adapters' base in 16 bits under autocast."""
    return "bf16" if run.recipe.weights == "bf16" else "fp32"


def _step_of(trainer, run: Run) -> tuple[Callable[[], None], torch.nn.Module, list[torch.Tensor]]:
    """What `Trainer.train` does around one step, without its loop."""
    trainer.create_optimizer()
    if run.recompute == "full":
        trainer.model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    batch = dict(next(iter(trainer.get_train_dataloader())))
    model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.model_wrapped, trainer.current_gradient_accumulation_steps = model, 1

    def step():
        loss = trainer.training_step(model, dict(batch))
        del loss
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)

    return step, model, [t for t in batch.values() if isinstance(t, torch.Tensor)]


@contextmanager
def _quiet():
    import datasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown = datasets.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        yield
        if shown:
            datasets.enable_progress_bars()
