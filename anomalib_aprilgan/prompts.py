# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The prompt ensemble: states x templates x class name -> sentences -> text features."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

REPORT_PROMPTS = Path(__file__).with_name("prompts.yaml")


@dataclass(frozen=True)
class PromptEnsemble:
    """Sentences about a normal and an abnormal class name (arXiv:2305.17382, section 2.1).

    Args:
        normal_states: Phrases with one ``{}`` for the class name, such as "flawless {}".
        abnormal_states: The same for defects, such as "damaged {}".
        templates: Sentences with one ``{}`` for the state, such as "a photo of a {}."
        class_names: Words to use for a category in place of its name.

    Raises:
        ValueError: If a list is empty or an entry has not exactly one ``{}``.
    """

    normal_states: list[str]
    abnormal_states: list[str]
    templates: list[str]
    class_names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("normal_states", "abnormal_states", "templates"):
            _check_phrases(name, getattr(self, name))
        if not isinstance(self.class_names, dict):
            msg = (
                f"`class_names` must map categories to words, such as 'pcb1: circuit board'; got {self.class_names!r}."
            )
            raise ValueError(msg)

    @classmethod
    def from_yaml(cls, path: str | Path | None = None) -> PromptEnsemble:
        """The ensemble in a YAML file with the fields of this class; None: the report's.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not such a YAML file.
        """
        path = REPORT_PROMPTS if path is None else Path(path)
        if not path.is_file():
            msg = f"`prompts` {str(path)!r} is not a file. Give a YAML file like {REPORT_PROMPTS}."
            raise FileNotFoundError(msg)
        try:
            return cls(**_read_fields(path))
        except (ValueError, TypeError, yaml.YAMLError) as error:
            msg = f"The prompts in {path} can't be used: {error}"
            raise ValueError(msg) from error

    def sentences(self, class_name: str) -> tuple[list[str], list[str]]:
        """All normal and all abnormal sentences about ``class_name``, template by template within each state."""
        words = self.class_names.get(class_name, class_name)
        # str.replace, not str.format: a class name may contain braces.
        normal, abnormal = (
            [template.replace("{}", state.replace("{}", words)) for state in states for template in self.templates]
            for states in (self.normal_states, self.abnormal_states)
        )
        return normal, abnormal

    def digest(self) -> str:
        """A short hash that tells ensembles apart."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def text_features(normal: Tensor, abnormal: Tensor) -> Tensor:
    """Text features (2, E), unit rows normal and abnormal, of the sentences' embeddings (P, E) and (Q, E).

    Each embedding is normalised before and their mean after averaging.
    """
    means = [F.normalize(embeddings.float(), dim=-1).mean(dim=0) for embeddings in (normal, abnormal)]
    return F.normalize(torch.stack(means), dim=-1)


def _read_fields(path: Path) -> dict[str, Any]:
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    expected = {"normal_states", "abnormal_states", "templates"}
    if not isinstance(fields, dict) or not expected <= fields.keys() <= {*expected, "class_names"}:
        found = sorted(map(str, fields)) if isinstance(fields, dict) else type(fields).__name__
        msg = f"expected the keys {sorted(expected)} and optionally 'class_names', got {found}."
        raise ValueError(msg)
    return fields


def _check_phrases(name: str, phrases: Any) -> None:
    if not isinstance(phrases, list) or not phrases:
        msg = f"`{name}` must be a list with at least one phrase, got {phrases!r}."
        raise ValueError(msg)
    for number, phrase in enumerate(phrases, start=1):
        if not isinstance(phrase, str) or phrase.count("{}") != 1:
            msg = f"`{name}`, entry {number}: expected text with exactly one {{}}, got {phrase!r}."
            raise ValueError(msg)
