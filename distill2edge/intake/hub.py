"""What the hub's clients raise, and their offline mode, in one place."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager


def network_errors() -> tuple[type[Exception], ...]:
    """What `huggingface_hub` and `datasets` raise without a network, or where a local cache lacks a file."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    found: list[type[Exception]] = [OSError, HfHubHTTPError, OfflineModeIsEnabled]
    # The HTTP client behind it changed over time; each has errors of its own that are not OSErrors.
    for name in ("httpx", "httpx2"):
        if importlib.util.find_spec(name):
            found.append(importlib.import_module(name).HTTPError)
    return tuple(found)


@contextmanager
def offline_mode() -> Iterator[None]:
    """Let the hub's clients read their local cache at once, instead of retrying without a network for half a minute."""
    import datasets
    import huggingface_hub.constants as constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
