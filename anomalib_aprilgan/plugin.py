# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Makes AprilGan a model of anomalib: ``--model AprilGan``, ``get_model("april_gan")``, ``list_models()``.

anomalib 2.7 looks up short names among the subclasses of AnomalibModule that are imported, and class paths in some of
its own modules only. The start-up hook (``startup/``) calls a function of this module when anomalib's module that the
function is about has been imported.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

PACKAGE = "anomalib_aprilgan"
HOME = f"{PACKAGE}.lightning_model"
MODEL = "AprilGan"


def register(models: ModuleType) -> None:
    """Import AprilGan and make it known to the module ``anomalib.models``; repeating it changes nothing."""
    late = _is_being_imported()
    for module in (models, vars(models).get("image")):
        if module is not None and late:
            _resolve_later(module)
        elif module is not None:
            setattr(module, MODEL, getattr(import_module(HOME), MODEL))
    vars(models).get("ALLOWED_MODULES", set()).update({PACKAGE, HOME})


def repair_benchmark(job: Any) -> None:
    """Have ``anomalib benchmark`` make its table of models with different metrics too."""
    job.BenchmarkJob.collect = staticmethod(import_module(f"{PACKAGE}.compat.anomalib").collect_all)


def repair_tiled_ensemble(helpers: Any) -> None:
    """Have tiled ensembles take models with arguments."""
    helpers.get_model = import_module(f"{PACKAGE}.compat.tiles").accepting_objects(helpers.get_model)


def _is_being_imported() -> bool:
    """Whether a module of ours imports ``anomalib.models`` just now, and so has no content yet."""
    ours = [module for name, module in [*sys.modules.items()] if name.startswith(f"{PACKAGE}.")]
    return any(getattr(getattr(module, "__spec__", None), "_initializing", False) for module in ours)


def _resolve_later(module: ModuleType) -> None:
    """Have the attribute looked up when it is first asked for (PEP 562)."""
    others = vars(module).get("__getattr__")

    def resolve(name: str) -> object:
        if name == MODEL:
            return getattr(import_module(HOME), MODEL)
        if others is not None:
            return others(name)
        msg = f"module {module.__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)

    vars(module)["__getattr__"] = resolve
