# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The prompt ensemble."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional as F

from anomalib_aprilgan.prompts import PAPER_PROMPTS, PromptEnsemble, text_features


def write(path: Path, **changes: object) -> Path:
    fields = {"normal_states": ["{}"], "abnormal_states": ["bad {}"], "templates": ["a photo of a {}."], **changes}
    path.write_text(yaml.safe_dump(fields))
    return path


def test_the_paper_has_7_and_5_states_and_35_templates() -> None:
    normal, abnormal = PromptEnsemble.from_yaml().prompts_about("bottle")
    assert (len(normal), len(abnormal)) == (7 * 35, 5 * 35)
    assert normal[0] == "a bad photo of a bottle."
    assert abnormal[0] == "a bad photo of a damaged bottle."
    assert normal[35] == "a bad photo of a flawless bottle."
    assert len(set(normal + abnormal)) == 420


def test_class_names_replace_the_category(tmp_path: Path) -> None:
    prompts = PromptEnsemble.from_yaml(write(tmp_path / "p.yaml", class_names={"pcb1": "circuit board"}))
    assert prompts.prompts_about("pcb1") == (["a photo of a circuit board."], ["a photo of a bad circuit board."])
    assert prompts.prompts_about("pcb2")[0] == ["a photo of a pcb2."]


def test_braces_in_a_class_name_are_text() -> None:
    assert PromptEnsemble(["{}"], ["no {}"], ["the {}"]).prompts_about("a{}b{0}") == (
        ["the a{}b{0}"],
        ["the no a{}b{0}"],
    )


def test_text_features_equal_a_naive_mean_of_directions() -> None:
    normal, abnormal = torch.randn(4, 3), torch.randn(2, 3)
    for row, embeddings in zip(text_features(normal, abnormal), (normal, abnormal), strict=True):
        mean = sum(embedding / embedding.norm() for embedding in embeddings) / len(embeddings)
        torch.testing.assert_close(row, F.normalize(mean, dim=0))


def test_digest_tells_ensembles_apart() -> None:
    first, second = PromptEnsemble(["{}"], ["no {}"], ["the {}"]), PromptEnsemble(["{}"], ["no {}"], ["a {}"])
    assert first.digest() == PromptEnsemble(["{}"], ["no {}"], ["the {}"]).digest() != second.digest()


FILE = """\
normal_states:
  - "{}"
abnormal_states: ["bad {}", "broken {}"]
templates:
  - a photo of a {}.
  - a picture of a {}.
class_names: {pcb1: circuit board}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a picture of a {}.", "a picture.", r", line 6, .* `templates`, entry 2: expected text with exactly one \{\}"),
        ('- "{}"', '- "{} {}"', r", line 2, .* `normal_states`, entry 1"),
        ('["bad {}", "broken {}"]', "[]", r", line 3, .* `abnormal_states` must be a list with at least one"),
        ('["bad {}", "broken {}"]', "bad {}", r", line 3, .* `abnormal_states` must be a list"),
        ("{pcb1: circuit board}", "[pcb]", r", line 7, .* `class_names` must map"),
        ("circuit board", "12", r", line 7, .* `class_names` must map"),
        ("class_names", "stats", r" can't be used: expected the keys .*normal_states"),
        ("class_names: {", "class_names: {{", "line 7"),
        ("circuit board", '"\\u200b"', r", line 7, .* `class_names` must map .*; got '\\u200b' for 'pcb1'"),
        ("pcb1", "12", r", line 7, .* got 'circuit board' for 12"),
        ("{pcb1: circuit board}", "[[[[pcb1, 1]]]]", r", line 7, .* got a list of 1 for ''"),
        ("a photo of a {}.", "[{}]", r", line 5, .* `templates`, entry 1: .* got a list of 1"),
        ("class_names", "lines", "expected the keys"),
        ("{pcb1: circuit board}", "[" * 5000, "can't be used"),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in FILE
    (tmp_path / "p.yaml").write_text(FILE.replace(old, new))
    with pytest.raises(ValueError, match=rf"(?s)p\.yaml.*{message}"):
        PromptEnsemble.from_yaml(tmp_path / "p.yaml")


def bomb(levels: int) -> str:
    """Lists of lists that the last line refers to: 9 ** levels phrases."""
    lists = [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(["l0: &l0 ['{}']", *lists, FILE.replace("{pcb1: circuit board}", f"*l{levels - 1}")])


@pytest.mark.parametrize("text", [bomb(9), FILE.replace("circuit board", "&a board, pcb2: *a")])
def test_aliases_are_refused_before_they_grow(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"line \d: \*\w+ is an alias; write out") as error:
        PromptEnsemble.from_yaml(tmp_path / "p.yaml")
    assert len(str(error.value)) < 300


def test_a_dictionary_that_grows_is_not_printed() -> None:
    nested: list = ["{}"]
    for _ in range(9):
        nested = [nested] * 9
    with pytest.raises(ValueError, match=r"`templates`, entry 1: .* got a list of 9") as error:
        PromptEnsemble.read({"normal_states": ["{}"], "abnormal_states": ["bad {}"], "templates": nested})
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("fields", [{}, {"normal_states": ["{}"]}, {"normal_states": ["{}"], "stats": []}])
def test_a_dictionary_needs_the_keys_of_a_file(fields: dict) -> None:
    with pytest.raises(ValueError, match=r"expected the keys .* in `prompts`, got \["):
        PromptEnsemble.read(fields)


INVISIBLE = [
    "",
    " ",
    "\t\n",
    "\0",
    "\u200b",
    "\u00a0\u2003",
    "\ufeff",
    "\u202e",
    "\u00ad",
    "\u0301",
    "\u3164",
    "\u2800",
    "\x1b",
]


@pytest.mark.parametrize("class_name", [*INVISIBLE, None, 3, ["bolt"]])
def test_class_names_that_say_nothing_are_refused(class_name: object) -> None:
    prompts = PromptEnsemble(["{}"], ["bad {}"], ["a {}"])
    with pytest.raises(ValueError, match=r"`class_name` must be a word for the inspected object, .* got"):
        prompts.prompts_about(class_name)
    with pytest.raises(ValueError, match="`class_names` must map categories to words"):
        replace(prompts, class_names={"bolt": class_name})


@pytest.mark.parametrize("class_name", ["bolt", "6", "Mutter", "\u87ba\u6813", "pcb_1", "{}", "\u200bbolt", "\u2699"])
def test_class_names_that_can_be_seen_are_taken(class_name: str) -> None:
    assert PromptEnsemble(["{}"], ["bad {}"], ["a {}"]).prompts_about(class_name)[0] == [f"a {class_name}"]


def test_origin_names_the_entries_of_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(FILE)
    prompts = PromptEnsemble.from_yaml(tmp_path / "p.yaml")
    _, abnormal = prompts.prompts_about("pcb1")
    assert prompts.origin("pcb1", abnormal[3]) == (
        "`abnormal_states`, entry 2 (line 3) in `templates`, entry 2 (line 6)"
    )
    assert PromptEnsemble(["{}"], ["no {}"], ["a {}"]).origin("x", "a no x") == (
        "`abnormal_states`, entry 1 in `templates`, entry 1"
    )
    with pytest.raises(ValueError, match="No prompt about 'x' is 'y'"):
        prompts.origin("x", "y")


def test_text_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("normal_states: [")
    with pytest.raises(ValueError, match="can't be used"):
        PromptEnsemble.from_yaml(tmp_path / "p.yaml")


def test_a_missing_file_names_an_example(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=PAPER_PROMPTS.name):
        PromptEnsemble.from_yaml(tmp_path / "nothing.yaml")
