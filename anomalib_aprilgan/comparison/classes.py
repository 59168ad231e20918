# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Classes from import paths, and instances of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser


def find_class(class_path: str, base: type, where: str) -> type:
    """Return the class at an import path.

    Args:
        class_path: Such as "anomalib.models.Padim".
        base: The class that it must inherit from.
        where: Key of the configuration, for error messages.

    Raises:
        ValueError: If there is no such class, or it is not a ``base``.
    """
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"`{where}` has the unknown class_path {class_path!r}: give an import path such as anomalib.models.Padim."
        raise ValueError(msg) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        msg = f"`{where}` has the class_path {class_path!r}, which is not a {base.__name__} of anomalib."
        raise ValueError(msg)
    return found


def instantiate(base: type, class_path: str, init_args: dict[str, Any]) -> Any:
    """Return an instance, made as anomalib's configurations make it: arguments checked, nested classes too.

    Args:
        base: A class that the instance inherits from.
        class_path: Import path of its own class.
        init_args: Arguments of its constructor.

    Raises:
        ValueError: If an argument does not fit.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "instance", fail_untyped=False)
    try:
        config = parser.parse_object({"instance": {"class_path": class_path, "init_args": init_args}})
    except ArgumentError as error:
        msg = f"{class_path} can't be made with the `init_args` {init_args}: {error}"
        raise ValueError(msg) from error
    return parser.instantiate_classes(config).instance
