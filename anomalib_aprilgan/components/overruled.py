# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Arguments of a model that a checkpoint overrules: they are named, so that nobody takes them for obeyed."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn

from anomalib_aprilgan.adapters import PREFIX_IN_CHECKPOINT
from anomalib_aprilgan.compat.lightning import current_datamodule
from anomalib_aprilgan.data.references import are_asked_for
from anomalib_aprilgan.target import CHANGED, References

logger = logging.getLogger(__name__)

RATE = "false_positive_rate"


def warn_of_overruled(module: Any, checkpoint: dict[str, Any], adapters: str | None, references: References) -> None:
    """Name in one warning the arguments that will not be used because the checkpoint brings what they ask for.

    Args:
        module: The model that loads, an AprilGan, before it has taken anything from the checkpoint.
        checkpoint: Lightning's.
        adapters: Whose adapters the checkpoint has.
        references: That the checkpoint has.
    """
    pairs = {
        **_adapters(module, checkpoint, adapters),
        **_draw(module, references),
        **_rates(module, checkpoint),
    }
    differing = [
        f"{name} {here!r} (the checkpoint's: {there!r})" for name, (here, there) in pairs.items() if here != there
    ]
    if differing:
        logger.warning(
            "These arguments are not used, because the checkpoint decides: %s. Make the model without the checkpoint "
            "if they are meant.",
            ", ".join(differing),
        )


def _adapters(module: Any, checkpoint: dict[str, Any], loaded: str | None) -> dict[str, tuple[Any, Any]]:
    wanted = module.adapters
    if wanted in {None, "auto"} or loaded is None:
        return {}
    if module.loaded_adapters is not None:  # a file: its content counts, not its name
        own, state = module.model.adapters.state_dict(), checkpoint["state_dict"]
        if all(own[name].equal(state[PREFIX_IN_CHECKPOINT + name].to(own[name].device)) for name in own):
            return {}
    return {"adapters": (wanted, loaded)}


def _draw(module: Any, known: References) -> dict[str, tuple[Any, Any]]:
    request = module.request
    if known.source == CHANGED and request.k_shot:
        asked = (request.k_shot, None if request.source is None else str(request.source))
        return {"k_shot": (asked[0], len(known.paths)), "few_shot_source": (asked[1] or CHANGED, CHANGED)}
    if not request.k_shot or not are_asked_for(known, request, current_datamodule(module)):
        return {}
    names = ("with_replacement", "seed", "coreset_sampling_ratio")
    return {name: (getattr(request, name), getattr(known, name)) for name in names}


def _rates(module: Any, checkpoint: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    config, trainer = checkpoint.get("anomalib_post_processor_config") or {}, module._trainer  # noqa: SLF001  # may be None
    rates = {}
    if config.get("is_calibrated"):
        there = config.get(RATE)
        rates[RATE] = (getattr(module.post_processor, RATE, there), there)
    if checkpoint.get("optimizer_states") and trainer is not None and trainer.state.fn == TrainerFn.FITTING:
        rates["learning_rate"] = (module.learning_rate, checkpoint["optimizer_states"][0]["param_groups"][0]["lr"])
    return rates
