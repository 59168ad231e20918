# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Prompts to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
from torch import Tensor

from anomalib_aprilgan.compat.open_clip import count_tokens


class LongPromptError(ValueError):
    """A prompt has more tokens than the context of the text tower."""

    def __init__(self, prompt: str, length: int, context: int) -> None:
        super().__init__(f"A prompt has {length} tokens, more than CLIP's {context}; shorten it: {prompt!r}.")
        self.prompt = prompt
        self.size = f"{length} tokens, more than CLIP's {context}"


class Tokenizer:
    """The tokenizer of a text tower, which refuses prompts that are too long.

    Args:
        text_config: The part ``text_cfg`` of an open_clip model configuration.
    """

    def __init__(self, text_config: dict[str, Any]) -> None:
        self.context: int = text_config.get("context_length", 77)
        kwargs = text_config.get("tokenizer_kwargs", {})
        name = text_config.get("hf_tokenizer_name")
        if name is None:
            self.tokenize = open_clip.tokenizer.SimpleTokenizer(context_length=self.context, **kwargs)
        else:
            self.tokenize = open_clip.tokenizer.HFTokenizer(name, context_length=self.context, **kwargs)

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return the tokens (P, context) of P prompts.

        Raises:
            LongPromptError: If a prompt is longer than the context.
        """
        for prompt in prompts:
            length = count_tokens(self.tokenize, prompt)
            if length is not None and length > self.context:
                raise LongPromptError(prompt, length, self.context)
        return self.tokenize(list(prompts))
