# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The prompt ensemble: states x templates x class name -> prompts -> text features."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

PAPER_PROMPTS = Path(__file__).with_name("prompts.yaml")
REQUIRED = {"normal_states", "abnormal_states", "templates"}
# Letters and symbols of Unicode of which nothing is seen: fillers of Hangul, and Braille without dots.
BLANK = "\u115f\u1160\u3164\uffa0\u2800"


@dataclass(frozen=True)
class PromptEnsemble:
    """Prompts about a normal and an abnormal object (arXiv:2305.17382, section 2.1).

    Args:
        normal_states: Phrases with one ``{}`` for the class name, such as "flawless {}".
        abnormal_states: Phrases for defects, such as "damaged {}".
        templates: Texts with one ``{}`` for the state, such as "a photo of a {}."
        class_names: Words to use for a category in place of its name.
        lines: Line numbers in the file, from 1: of each list, then of its entries. For messages.

    Raises:
        ValueError: If a list is empty, an entry has not exactly one ``{}``, or a class name is empty or invisible.
    """

    normal_states: list[str]
    abnormal_states: list[str]
    templates: list[str]
    class_names: dict[str, str] = field(default_factory=dict)
    lines: dict[str, list[int]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("normal_states", "abnormal_states", "templates"):
            _check_phrases(name, getattr(self, name))
        pairs = self.class_names.items() if isinstance(self.class_names, dict) else [("", self.class_names)]
        for category, words in pairs:
            if not (is_visible(category) and is_visible(words)):
                msg = (
                    "`class_names` must map categories to words, as in 'pcb1: circuit board'; got "
                    f"{_shown(words)} for {_shown(category)}."
                )
                raise PhraseError(msg, "class_names", 0)

    @classmethod
    def read(cls, source: str | Path | dict[str, Any] | None) -> PromptEnsemble:
        """Return the ensemble in a YAML file or with the fields of a dictionary; None: the paper's.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not such a file or dictionary.
        """
        return cls(**_checked_fields(source, "lines")) if isinstance(source, dict) else cls.from_yaml(source)

    @classmethod
    def from_yaml(cls, path: str | Path | None = None) -> PromptEnsemble:
        """Return the ensemble in a YAML file with the fields of this class; None: the paper's.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not such a YAML file, naming the line, or has aliases.
        """
        path = PAPER_PROMPTS if path is None else Path(path)
        if not path.is_file():
            msg = f"`prompts` {str(path)!r} is not a file. Give a YAML file like {PAPER_PROMPTS}."
            raise FileNotFoundError(msg)
        lines: dict[str, list[int]] = {}
        try:
            text = path.read_text(encoding="utf-8")
            _refuse_aliases(text)
            lines = _lines(text)
            return cls(**_checked_fields(yaml.safe_load(text)), lines=lines)
        except PhraseError as error:
            msg = f"The prompts in {path}, line {lines[error.field][error.entry]}, can't be used: {error}"
            raise ValueError(msg) from error
        except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
            msg = f"The prompts in {path} can't be used: {error}"
            raise ValueError(msg) from error

    def prompts_about(self, class_name: str) -> tuple[list[str], list[str]]:
        """Return all normal and all abnormal prompts about ``class_name``, template by template within each state.

        Raises:
            ValueError: If the class name is empty or invisible.
        """
        check_class_name(class_name)
        words = self.class_names.get(class_name, class_name)
        normal, abnormal = (
            [_fill(template, state, words) for state in states for template in self.templates]
            for states in (self.normal_states, self.abnormal_states)
        )
        return normal, abnormal

    def origin(self, class_name: str, prompt: str) -> str:
        """Return in words which entries make a prompt about ``class_name``."""
        for name, prompts in zip(("normal_states", "abnormal_states"), self.prompts_about(class_name), strict=True):
            if prompt in prompts:
                state, template = divmod(prompts.index(prompt), len(self.templates))
                return f"{self._place(name, state)} in {self._place('templates', template)}"
        msg = f"No prompt about {class_name!r} is {prompt!r}."
        raise ValueError(msg)

    def _place(self, name: str, entry: int) -> str:
        """Return in words where an entry stands, counted from 0."""
        line = f" (line {self.lines[name][entry + 1]})" if name in self.lines else ""
        return f"`{name}`, entry {entry + 1}{line}"

    def digest(self) -> str:
        """Return a short hash that tells ensembles apart."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def check_class_name(class_name: Any) -> None:
    """Raise ValueError if the class name is empty or invisible, or no text."""
    if not is_visible(class_name):
        msg = (
            f"`class_name` must be a word for the inspected object, such as 'metal bracket'; got {_shown(class_name)}."
        )
        raise ValueError(msg)


def is_visible(text: Any) -> bool:
    """Return whether this is text with more than spaces, control characters and what else leaves no trace."""
    return isinstance(text, str) and any(
        unicodedata.category(character)[0] in "LNPS" and character not in BLANK for character in text
    )


def text_features(normal: Tensor, abnormal: Tensor) -> Tensor:
    """Return text features (2, E), unit rows normal and abnormal, of the prompts' embeddings (P, E) and (Q, E).

    Each embedding is normalised before averaging, and the mean after it.
    """
    return torch.stack([mean_direction(normal), mean_direction(abnormal)])


def mean_direction(embeddings: Tensor) -> Tensor:
    """Return the mean directions, unit vectors (..., E), of embeddings (..., P, E)."""
    return F.normalize(F.normalize(embeddings.float(), dim=-1).mean(dim=-2), dim=-1)


class PhraseError(ValueError):
    """A field of the ensemble, or one of its entries (counted from 1; 0: the field itself), is wrong."""

    def __init__(self, message: str, field: str, entry: int) -> None:
        super().__init__(message)
        self.field = field
        self.entry = entry


def _fill(template: str, state: str, words: str) -> str:
    # str.replace, not str.format: a class name may contain braces.
    return template.replace("{}", state.replace("{}", words))


def _checked_fields(fields: Any, *more: str) -> dict[str, Any]:
    if not isinstance(fields, dict) or not REQUIRED <= fields.keys() <= {*REQUIRED, "class_names", *more}:
        found = sorted(map(str, fields)) if isinstance(fields, dict) else type(fields).__name__
        msg = f"expected the keys {sorted(REQUIRED)} and optionally 'class_names' in `prompts`, got {found}."
        raise ValueError(msg)
    return fields


def _refuse_aliases(text: str) -> None:
    """Nine lines of aliases of aliases stand for gigabytes."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            msg = f"line {event.start_mark.line + 1}: *{event.anchor} is an alias; write out what it stands for."
            raise ValueError(msg)


def _lines(text: str) -> dict[str, list[int]]:
    """Return for each key of YAML text its line number, then those of its list's entries, counted from 1."""
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = document.value if isinstance(document, yaml.MappingNode) else []
    return {
        key.value: [
            node.start_mark.line + 1 for node in (key, *(value.value if isinstance(value, yaml.SequenceNode) else ()))
        ]
        for key, value in pairs
    }


def _check_phrases(name: str, phrases: Any) -> None:
    if not isinstance(phrases, list) or not phrases:
        msg = f"`{name}` must be a list with at least one phrase, got {_shown(phrases)}."
        raise PhraseError(msg, name, 0)
    for number, phrase in enumerate(phrases, start=1):
        if not isinstance(phrase, str) or phrase.count("{}") != 1:
            msg = f"`{name}`, entry {number}: expected text with exactly one {{}}, got {_shown(phrase)}."
            raise PhraseError(msg, name, number)


def _shown(value: Any) -> str:
    """Return a value for a message; of a list or dictionary, which may be huge, its kind and length."""
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, list | tuple | dict) else repr(value)[:80]
