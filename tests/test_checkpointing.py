"""The experiments on checkpoints and tokens, on tiny grids."""

from pathlib import Path

import pytest
import torch.distributed.checkpoint as dcp

from sizing import experiments
from sizing.experiments import checkpointing, tokens
from sizing.measuring import checkpoints
from sizing.measuring.device import cpu
from sizing.measuring.training import TINY_MODEL

CPU = cpu()


def points(part: str) -> list[dict]:
    found = experiments.experiment("checkpoint").points(CPU, model=TINY_MODEL.name, parts=(part,))
    return found


@pytest.mark.parametrize("point", points("save"), ids=lambda p: f"{p['format']}-{p['mode'][:5]}")
def test_saved_bytes_are_the_formula_s_and_come_back(point):
    row = checkpointing.measure(point, CPU)
    assert row["bytes"] == row["formula_bytes"]
    assert row["equal"] == 1
    assert 0 < row["stall_seconds"] <= row["seconds"]


def test_four_ranks_save_and_two_load():
    (point,) = points("reshard")
    row = checkpointing.measure(point, CPU)
    assert point["ranks"] == 4 and row["loaded_ranks"] == 2
    assert row["equal"] == 1
    assert row["bytes"] == row["formula_bytes"]


def test_a_process_killed_in_a_save_loses_nothing_but_its_steps():
    (point,) = points("resume")
    row = checkpointing.measure(point, CPU)
    assert row["killed"] == 1
    assert row["checkpoints_left"] == 2  # one whole, one without its `.metadata`
    assert row["resumed_at"] == checkpointing.EVERY
    assert row["equal"] == 1


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_last_whole_checkpoint_is_found(tmp_path):
    assert checkpoints.last_good(tmp_path) is None
    state = {"model": {}, "progress": 1}
    dcp.save(state, checkpoint_id=str(tmp_path / "step-1"), no_dist=True)
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-2" / "__0_0.distcp").write_bytes(b"half a file")
    assert checkpoints.last_good(tmp_path) == Path(tmp_path / "step-1")
    for step in (900, 1000):  # as text, "step-900" comes last
        (tmp_path / f"step-{step}").mkdir()
        (tmp_path / f"step-{step}" / ".metadata").touch()
    assert checkpoints.last_good(tmp_path) == tmp_path / "step-1000"


def test_tokens_from_bytes_to_disk():
    chosen = experiments.experiment("tokens")
    rows = {}
    for point in chosen.points(CPU, sizes=(300, 1000), limit=60_000):
        row = tokens.measure(point, CPU)
        rows[point["tokenizer"], point["vocabulary"]] = row
        assert row["disk_bytes"] == row["formula_bytes"] == 2 * row["tokens"]
        assert row["text_bytes"] == 60_000
        assert row["used"] <= point["vocabulary"]
    assert rows["bytes", 256]["bytes_per_token"] == 1
    small, large = rows["bpe", 300], rows["bpe", 1000]
    assert 1 < small["bytes_per_token"] < large["bytes_per_token"]
    assert large["used"] == 1000
    assert large["embedding_parameters"] == 1000 * tokens.HIDDEN
