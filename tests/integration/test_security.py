# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Others' data run no code and reach no other files; the page is for this machine and takes little."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_aprilgan import app, cli
from anomalib_aprilgan.clip.weights import read_state_dict
from anomalib_aprilgan.comparison import datasets
from anomalib_aprilgan.comparison.grid import DataSpec, Job
from anomalib_aprilgan.comparison.thumbnails import read_thumbnails, thumbnails_path
from anomalib_aprilgan.prompts import PromptEnsemble
from bad_files import Malicious
from conftest import GOOD, Engines, Models

PACKAGE = Path(app.__file__).parent
FORBIDDEN = {"eval", "exec", "pickle.load", "pickle.loads", "marshal.loads", "os.system", "yaml.load", "yaml.full_load"}


def calls() -> Iterator[tuple[str, str, dict[str, str]]]:
    """File, function and named arguments of all calls in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                arguments = {each.arg: ast.unparse(each.value) for each in node.keywords if each.arg}
                yield path.name, ast.unparse(node.func), arguments


def test_nothing_that_runs_data() -> None:
    found = list(calls())
    assert not [(file, name) for file, name, _ in found if name in FORBIDDEN]
    assert not [file for file, _, arguments in found if arguments.get("shell") == "True"]
    assert not [file for file, name, arguments in found if name == "np.load" and "allow_pickle" in arguments]
    loads = [arguments for _, name, arguments in found if name == "torch.load"]
    assert loads
    assert all(arguments["weights_only"] == "True" for arguments in loads)
    loaders = [arguments.get("Loader") for _, name, arguments in found if name == "yaml.compose"]
    assert set(loaders) == {"yaml.SafeLoader"}


def test_code_in_clip_weights_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"state_dict": Malicious()}, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=r"clip\.pt holds no weights that can be read"):
        read_state_dict(tmp_path / "clip.pt")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("tag", ["!!python/object/apply:builtins.print [code in YAML ran]", "!!python/name:os.system"])
def test_code_in_prompts_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture, tag: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(f"normal_states: {tag}\nabnormal_states: ['bad {{}}']\ntemplates: ['a {{}}']\n")
    with pytest.raises(ValueError, match=r"The prompts in .*prompts\.yaml can't be used: could not determine a const"):
        PromptEnsemble.from_yaml(path)
    assert "ran" not in capsys.readouterr().out


def test_code_in_thumbnails_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = thumbnails_path(tmp_path, Job("m", "d", "c", 0, 0))
    path.parent.mkdir()
    np.savez(path, maps=np.array([Malicious()], dtype=object))
    assert read_thumbnails(path) is None
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("category", ["../secret", "/etc", "bolt/../../secret"])
def test_categories_stay_in_their_root(tmp_path: Path, category: str) -> None:
    (tmp_path / "data" / "bolt").mkdir(parents=True)
    (tmp_path / "secret" / "test" / "good").mkdir(parents=True)
    spec = DataSpec("anomalib.data.MVTecAD", {"root": str(tmp_path / "data")}, [category])
    with pytest.raises(ValueError, match=r"`datasets\.parts\.categories` must be names of folders in"):
        datasets.prepare_categories(spec, "parts")


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "a/b\\c:d"])
def test_names_stay_in_the_output_folder(tmp_path: Path, name: str) -> None:
    path = thumbnails_path(tmp_path, Job(name, name, name, 0, 0))
    assert path.resolve().parent == (tmp_path / "pictures").resolve()


def test_pictures_stay_in_the_folder_of_results(
    make_model: Models, engine: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of images that are named by a path that goes up."""
    (tmp_path / "here").mkdir()
    (tmp_path / "parts").mkdir()
    Image.open(GOOD / "000.png").save(tmp_path / "parts" / "000.png")
    (tmp_path / "parts" / "link.png").symlink_to(GOOD / "000.png")
    monkeypatch.chdir(tmp_path / "here")
    engine("results").predict(make_model(class_name="bolt", visualizer=True), data_path="../parts")
    outside = [path for path in tmp_path.rglob("*.png") if "here" not in path.parts and path.parent.name != "parts"]
    assert outside == []
    assert len(list((tmp_path / "here" / "results").rglob("images/**/*.png"))) == 2


# --- the page ---


def test_the_page_is_for_this_machine() -> None:
    assert inspect.signature(cli.demo).parameters["host"].default == "127.0.0.1"
