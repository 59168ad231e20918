# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Start-up hook: has AprilGan registered with anomalib as soon as the modules are imported that should know it.

``anomalib_aprilgan.pth`` beside it imports this module in every interpreter of the environment. It is no part of the
package, whose import would hide another copy of it (a checkout) from that interpreter, and it may use nothing but
modules that Python has loaded by then. Set ANOMALIB_APRILGAN_NO_PLUGIN to switch it off.
"""

import os
import sys

TYPE_CHECKING = False  # typing's own costs a third of the interpreter's start
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

SWITCH = "ANOMALIB_APRILGAN_NO_PLUGIN"
# Modules of anomalib, and the function of anomalib_aprilgan.plugin that is called with each.
WATCHED = {
    "anomalib.models": "register",
    "anomalib.pipelines.benchmark.job": "repair_benchmark",
    "anomalib.pipelines.tiled_ensemble.components.utils.helper_functions": "repair_tiled_ensemble",
}


class ModelsFinder:
    """Finds modules of anomalib as Python does anyway, and has AprilGan registered once they are executed."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """The spec of a watched module, whose loader will call us; None for all other modules."""
        if name not in WATCHED:
            return None
        try:
            return self._watched_spec(name, path, target)
        except Exception as error:  # noqa: BLE001  # the next finder then imports the module without us
            warn(error)
            return None

    def _watched_spec(
        self, name: str, path: "Sequence[str] | None", target: "ModuleType | None"
    ) -> "ModuleSpec | None":
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                register_after_execution(spec.loader, WATCHED[name])
                return spec
        return None


def register_after_execution(loader: "Loader", function: str) -> None:
    """Extend the loader, which belongs to one module, by a call of the plugin's function."""
    execute = loader.exec_module

    def exec_module(module: "ModuleType") -> None:
        execute(module)
        try:
            from anomalib_aprilgan import plugin  # noqa: PLC0415  # only now may an import cost time

            getattr(plugin, function)(module)
        except Exception as error:  # noqa: BLE001  # anomalib has to work whatever is wrong with us
            warn(error)

    loader.exec_module = exec_module  # type: ignore[method-assign]


def warn(error: Exception) -> None:
    """Log why anomalib does not know AprilGan."""
    import logging  # noqa: PLC0415  # too heavy for every start of Python

    logging.getLogger("anomalib_aprilgan").warning(
        "anomalib will not find the model AprilGan: %s: %s. `python -c 'import anomalib_aprilgan.lightning_model'` "
        "shows where this comes from; %s=1 silences it.",
        type(error).__name__,
        error,
        SWITCH,
    )


def install() -> None:
    """Put the finder before Python's own, unless it is there already or switched off."""
    if os.environ.get(SWITCH) or any(type(finder).__module__ == __name__ for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, ModelsFinder())


install()
