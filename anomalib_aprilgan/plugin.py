# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Makes AprilGan a model of anomalib: ``--model AprilGan``, ``get_model("april_gan")``, ``list_models()``.

anomalib 2.7 looks up short names among the subclasses of AnomalibModule that are imported, and class paths in its own
module ``anomalib.models`` only. The start-up hook (``startup/``) calls ``register`` when that module is imported.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

HOME = "anomalib_aprilgan.lightning_model"
MODEL = "AprilGan"


def register(models: ModuleType) -> None:
    """Import AprilGan and make it an attribute of the module ``anomalib.models``; repeating it changes nothing."""
    home = sys.modules.get(HOME)
    if home is not None and not hasattr(home, MODEL):
        # AprilGan's own module is what imports anomalib.models just now, and will define the class after us.
        _resolve_later(models)
    else:
        setattr(models, MODEL, getattr(import_module(HOME), MODEL))


def _resolve_later(models: ModuleType) -> None:
    """Have the attribute looked up when it is first asked for (PEP 562)."""
    others = vars(models).get("__getattr__")

    def resolve(name: str) -> object:
        if name == MODEL:
            return getattr(import_module(HOME), MODEL)
        if others is not None:
            return others(name)
        msg = f"module {models.__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)

    vars(models)["__getattr__"] = resolve
