# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A workaround for huggingface_hub, seen in 1.0 to 2.4."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from huggingface_hub import constants

CONNECT, ANSWER = 5.0, 10.0  # seconds


@contextmanager
def without_retries_offline() -> Iterator[str | None]:
    """Look only into the cache while the hub can't be reached; yields the reason, or None.

    ``hf_hub_download`` asks for a file that is not in the cache six times within 23 s, and open_clip asks for two
    names; no argument changes that. Its own offline mode asks nobody, but can be chosen by an environment variable
    only, which it reads when it is imported.
    """
    before = constants.HF_HUB_OFFLINE
    reason = "huggingface_hub is offline, by HF_HUB_OFFLINE" if before else _unreachable(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = reason is not None
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = before


def _unreachable(address: str) -> str | None:
    try:
        requests.head(address, timeout=(CONNECT, ANSWER))
    except requests.exceptions.SSLError:
        return None  # somebody is there; huggingface_hub may have other certificates
    except (requests.ConnectionError, requests.Timeout) as error:
        return f"{address} can't be reached, {type(error).__name__}: {error}"
    return None
