"""The store at a place that a user names: a directory, or an address that machines share."""

from __future__ import annotations

import os
from pathlib import Path

from distill2edge.pipeline.object_storage import is_address
from distill2edge.pipeline.shared_store import SharedStore
from distill2edge.pipeline.store import Store
from distill2edge.util.files import check_path


def store_at(place: Path | str | None = None) -> Store:
    """The store at a place; by default at `$DISTILL2EDGE_STORE`, or in the user's cache directory.

    Raises:
        UserError, EnvironmentFault: a place that cannot be one.
    """
    named = place or os.environ.get("DISTILL2EDGE_STORE")
    if not named:
        return Store(Path.home() / ".cache" / "distill2edge" / "store")
    if is_address(named):
        return SharedStore(str(named))
    check_path(str(named))
    return Store(Path(named))
