"""finetune-stacks: steps of the trainers that people fine-tune with, allocation by allocation.

transformers' `Trainer`, TRL's `SFTTrainer` with peft's adapters (over bitsandbytes' layers where
quantised) and its `DPOTrainer` train for two steps as anybody would start them; on a GPU with
Liger's kernels and torch.compile as well. The allocator's own events say what the first step and
the second one hold at most, and what the second one's peak is made of. `stacks.formula` stands
beside each in lesson 12.

trl, peft, bitsandbytes and liger-kernel are optional: without one its points are "not available".
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from itertools import accumulate
from subprocess import CalledProcessError
from unittest.mock import patch

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from ..measuring.allocations import cpu_events, load_libraries, optimizer_tensors, storage_bytes
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row, Unavailable, is_out_of_memory
from ..run import Run
from ..trace import build, quantized
from . import stacks
from .memory_timeline import CATEGORIES, _cuda_events, _logits_sizes, categorised, paired

STEPS = 2
PAD, END, WORD = 0, 1, 2  # token numbers; their values change no size
OPTIMIZERS = {"adamw": "adamw_torch", "adamw-fused": "adamw_torch_fused"}
CHECKPOINTS = {"use_reentrant": False}


def grid(
    device: Device,
    model: str | None = None,
    sequence: int | None = None,
    micro_batch: int | None = None,
) -> list[Row]:
    """Every trainer and stack on one small model; Liger and torch.compile on GPUs.

    Args:
        model: a preset's name; by default qwen2.5-0.5b on a GPU, five layers of it with a smaller
            vocabulary on a CPU.
        sequence: tokens in a sequence; by default 1024 on a GPU, 256 on a CPU.
        micro_batch: sequences in a step; by default 1 per 10 GB of a GPU, 2 on a CPU.
    """
    return stacks.points(
        model or ("qwen2.5-0.5b" if device.cuda else "small-qwen2"),
        sequence or (1024 if device.cuda else 256),
        micro_batch or (max(1, int(device.memory // 10e9)) if device.cuda else 2),
        kernels=device.cuda,
    )


def measure(point: Row, device: Device) -> Row:
    """Peaks of the first and of the second step, and the parts of the second one's peak."""
    run = stacks.run_of(point)
    for library in _libraries(point):
        if importlib.util.find_spec(library) is None:
            raise Unavailable(f"{library.replace('_', '-')} is not installed")
    device.require(stacks.formula(point, device=device.kind).total)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        trainer = _BUILT[point["trainer"]](run, device, folder)
        return _watched(trainer, run, device)


def _libraries(point: Row) -> list[str]:
    """What a point needs beside transformers, by the names that Python imports."""
    found = ["trl"] if point["trainer"] != stacks.TRAINER else []
    found += ["peft"] if point["lora"] else []
    found += ["bitsandbytes"] if point["quantization"] else []
    return found + (["liger_kernel"] if point["kernels"] == "liger" else [])


# -- what is watched


def _watched(trainer, run: Run, device: Device) -> Row:
    marks: list[tuple[str, int]] = []

    def enter(phase: str) -> None:
        device.synchronize()
        marks.append((phase, time.time_ns()))

    _mark(trainer, enter)
    if device.cuda:
        load_libraries()
    device.release()  # what is left of other points would be given back while this one is watched
    base = torch.cuda.memory_allocated() if device.cuda else storage_bytes(*_weights(trainer))
    record = _cuda_events if device.cuda else cpu_events
    try:
        events = record(trainer.train)
    except (TorchDynamoException, CalledProcessError) as error:
        if is_out_of_memory(error):
            raise
        raise Unavailable(f"torch.compile: {str(error).strip().splitlines()[0]}") from error
    alive = list(accumulate((event.bytes for event in events), initial=base))
    times = [event.time for event in events]
    places = [(phase, bisect_left(times, moment)) for phase, moment in marks]
    starts = [place for phase, place in places if phase == "forward"]
    ends = [place for phase, place in places if phase == "end"]
    first, last = zip(starts, ends, strict=True)
    place = max(range(last[0], last[1] + 1), key=alive.__getitem__)
    phases = [(phase, at - last[0]) for phase, at in places if last[0] <= at < last[1]]
    window = paired(events[last[0] : last[1]])
    now = dict.fromkeys(CATEGORIES, 0)
    for at, category, change in categorised(window, phases, _logits_sizes(run)):
        if at < place - last[0]:
            now[category] += change
    state = storage_bytes(*optimizer_tensors(trainer.optimizer.state))
    weights = storage_bytes(*_weights(trainer))
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    return {
        "peak_bytes": alive[place],
        "peak_phase": [phase for phase, at in phases if at <= place - last[0]][-1],
        "first_bytes": max(alive[first[0] : first[1] + 1]),
        "trained_parameters": sum(p.numel() for p in trained),
        "parameters_bytes": weights,
        "optimizer_bytes": state,
        **{f"{category}_bytes": size for category, size in now.items()},
        "other_bytes": alive[last[0]] - weights - state,
        "reserved_bytes": torch.cuda.max_memory_reserved() if device.cuda else None,
        "peak_source": "CUDA memory history" if device.cuda else "CPU allocator events",
        "libraries": _versions(run, trainer),
    }


def _mark(trainer, enter: Callable[[str], None]) -> None:
    """Call `enter` where each phase of a step begins, and with "end" where the step ends."""
    from transformers import TrainerCallback

    class Marks(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            enter("forward")

        def on_pre_optimizer_step(self, *args, **kwargs):
            enter("optimizer")

        def on_step_end(self, *args, **kwargs):
            enter("end")

    backward = trainer.accelerator.backward

    def marked(*args, **kwargs):
        enter("loss")
        return backward(*args, **kwargs)

    trainer.accelerator.backward = marked
    trainer.add_callback(Marks())


def _weights(trainer) -> list[torch.Tensor]:
    """Weights and buffers of the model and of the reference beside it, with their scales."""
    models = [trainer.model, getattr(trainer, "ref_model", None)]
    found = []
    for model in models:
        if model is not None:
            found += [*model.parameters(), *model.buffers(), *quantized.scales(model)]
    return found


def _versions(run: Run, trainer) -> str:
    from importlib.metadata import PackageNotFoundError, version

    names = ["transformers", "accelerate"]
    names += ["trl"] if type(trainer).__module__.startswith("trl") else []
    names += ["peft"] if run.lora else []
    names += ["bitsandbytes"] if run.quantization else []
    names += ["liger-kernel"] if run.kernels == "liger" else []
    try:
        return " ".join(f"{name} {version(name)}" for name in names)
    except PackageNotFoundError as missing:
        raise Unavailable(f"{missing} is not installed") from missing


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the libraries print, warn and log away from whoever measures."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    kept = {stream: os.dup(stream) for stream in (1, 2)}  # C++ writes there too
    for stream in kept:
        os.dup2(nowhere, stream)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open(os.devnull, "w") as sink, redirect_stdout(sink), redirect_stderr(sink):
                yield
    finally:
        logging.set_verbosity(level)
        for stream, own in kept.items():
            os.dup2(own, stream)
            os.close(own)
        os.close(nowhere)


# -- the trainers


def _settings(run: Run, device: Device, folder: str) -> dict:
    """Arguments that all three trainers share; what is not named is their default."""
    return {
        "output_dir": folder,
        "max_steps": STEPS,
        "per_device_train_batch_size": run.micro_batch,
        "bf16": run.recipe.autocast,
        "gradient_checkpointing": run.recompute == "full",
        "gradient_checkpointing_kwargs": CHECKPOINTS if run.recompute == "full" else None,
        "optim": OPTIMIZERS[run.optimizer],
        "torch_compile": run.kernels == "compiled",
        "use_liger_kernel": run.kernels == "liger",
        "use_cpu": not device.cuda,
        "dataloader_pin_memory": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def _alone(arguments):
    """The arguments for one GPU: Trainer would spread the batch over all that it sees."""
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _network(run: Run, device: Device) -> nn.Module:
    """The run's model with random weights, as it is loaded; quantised layers are bitsandbytes'."""
    with torch.device(device.kind):
        network = build.model(replace(run, recompute="none"))
        if run.quantization:
            network = quantized.replace_linears(network, run)
    return network


def _adapters(run: Run):
    if run.lora is None:
        return None
    import peft

    targets = run.lora.targets
    return peft.LoraConfig(
        r=run.lora.rank,
        target_modules=targets if targets == "all-linear" else list(targets),
        lora_dropout=run.lora.dropout,
        task_type="CAUSAL_LM",
    )


def _tokens(run: Run) -> list[list[int]]:
    random = torch.Generator().manual_seed(0)
    shape = (STEPS * run.micro_batch, run.sequence)
    return torch.randint(WORD, run.model.vocab, shape, generator=random).tolist()


def _plain_trainer(run: Run, device: Device, folder: str):
    from transformers import Trainer, TrainingArguments, default_data_collator

    network, adapters = _network(run, device), _adapters(run)
    if adapters is not None:
        import peft

        network = peft.get_peft_model(network, adapters)
    return Trainer(
        network,
        _alone(TrainingArguments(**_settings(run, device, folder))),
        data_collator=default_data_collator,
        train_dataset=[{"input_ids": row, "labels": row} for row in _tokens(run)],
    )


def _tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": PAD, "<end>": END, "word": WORD}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="word")),
        pad_token="<pad>",
        eos_token="<end>",
    )


def _sft_trainer(run: Run, device: Device, folder: str):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list([{"input_ids": row} for row in _tokens(run)])
    with patch.object(SFTTrainer, "_prepare_dataset", lambda self, given, *args, **kwargs: given):
        return SFTTrainer(
            model=_network(run, device),
            args=_alone(SFTConfig(**_settings(run, device, folder), max_length=run.sequence)),
            train_dataset=data,
            processing_class=_tokenizer(),
            peft_config=_adapters(run),
        )


def _dpo_trainer(run: Run, device: Device, folder: str):
    """Half of each sequence is the prompt; all are as long as the run's, so that none is padded."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    half = run.sequence // 2
    words = {"prompt": "word", "chosen": "word", "rejected": "word"}
    pairs = [
        {**words, "prompt_ids": t[:half], "chosen_ids": t[half:], "rejected_ids": t[half:]}
        for t in _tokens(run)
    ]
    settings = _settings(run, device, folder) | {"remove_unused_columns": False}
    with patch.object(DPOTrainer, "_prepare_dataset", lambda self, given, *args, **kwargs: given):
        return DPOTrainer(
            model=_network(run, device),
            ref_model=None if run.lora else _network(run, device),
            args=_alone(DPOConfig(**settings, max_length=run.sequence)),
            train_dataset=Dataset.from_list(pairs),
            processing_class=_tokenizer(),
            peft_config=_adapters(run),
        )


_BUILT = {
    stacks.TRAINER: _plain_trainer,
    stacks.SFT: _sft_trainer,
    stacks.DPO: _dpo_trainer,
}

EXPERIMENT = Experiment("finetune-stacks", grid, measure)
