# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Two processes give what one does: weights, metrics, memory banks, bounds and thresholds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.data import TensorDataset

import distributed_training
from anomalib_aprilgan.components.contact_sheet import SHEET
from anomalib_aprilgan.data.auxiliary_dataset import EpochSampler
from conftest import Models


@pytest.fixture(scope="module")
def results(tiny_arguments: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """State dict, last loss and test metrics of one process, and of each of two."""
    folder = tmp_path_factory.mktemp("distributed")
    arguments = {name: value for name, value in tiny_arguments.items() if name != "adapters"}
    distributed_training.main(arguments, 1, folder)
    (folder / "arguments.json").write_text(json.dumps(arguments))
    program = [distributed_training.__file__, folder / "arguments.json", "2", folder]
    command, environment = [sys.executable, "-W", "ignore", *program], {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert process.returncode == 0, process.stderr
    found = {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}
    written = {path: len(list(path.parent.rglob("images/**/*.png"))) for path in folder.rglob(SHEET)}
    return {
        **found,
        "tables": {path: path.read_text().splitlines() for path in folder.rglob("predictions*")},
        "pictures": written,
    }


@pytest.mark.slow
@pytest.mark.parametrize("which", ["2-0", "2-1"])
def test_two_processes_equal_one(results: dict[str, dict], which: str) -> None:
    """Nine test images: one of the processes is given one of them again."""
    one, other = results["1-0"], results[which]
    assert one["state"].keys() == other["state"].keys()
    for name, tensor in one["state"].items():
        torch.testing.assert_close(other["state"][name], tensor, atol=1e-5, rtol=1e-5, equal_nan=True, msg=name)
    assert len(one["state"]["model.memory.stage0"]) == 2 * 25
    assert one["state"]["model.score_bounds"].isfinite().all()
    assert one["metrics"].keys() == other["metrics"].keys()
    assert one["metrics"] == pytest.approx(other["metrics"], abs=1e-5)
    assert len(one["metrics"]) == 9
    torch.testing.assert_close(one["loss"], other["loss"])


@pytest.mark.slow
def test_a_test_and_a_prediction_have_one_table_each(results: dict[str, dict]) -> None:
    assert list(results["pictures"].values()) == [9] * 4
    tables = list(results["tables"].values())
    assert len(tables) == 4
    for table in tables:
        assert table[0] == tables[0][0]
        assert len(set(table)) == len(table) == 1 + 9
        assert {row.split(",")[0] for row in table} == {row.split(",")[0] for row in tables[0]}


@pytest.mark.slow
def test_training_changed_the_adapters(results: dict[str, dict], make_model: Models) -> None:
    """Else equal weights would prove nothing."""
    name = "model.adapters.fc.0.weight"
    before, after = make_model(adapters=None).state_dict()[name], results["2-0"]["state"][name]
    assert (after - before).abs().max() > 1e-3


def test_processes_together_train_on_the_batches_of_one() -> None:
    images = TensorDataset(torch.arange(8))
    order = list(EpochSampler(images, seed=3, epoch=2))
    parts = [list(EpochSampler(images, seed=3, epoch=2, rank=rank, num_replicas=2)) for rank in range(2)]
    assert [set(parts[0][i : i + 2]) | set(parts[1][i : i + 2]) for i in (0, 2)] == [set(order[:4]), set(order[4:])]
    uneven = [list(EpochSampler(images, seed=3, rank=rank, num_replicas=3)) for rank in range(3)]
    assert [len(part) for part in uneven] == [3, 3, 3]
    assert set().union(*uneven) == set(range(8))
