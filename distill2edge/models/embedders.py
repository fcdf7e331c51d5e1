"""A directory of any encoder made one of an embedder: its body alone, with what it says of its pooling."""

from __future__ import annotations

from pathlib import Path

from distill2edge.models.loading import load_model
from distill2edge.models.pooling import Pooling
from distill2edge.util.files import scratch


def make_embedder(model_dir: Path, pooling: Pooling) -> int:
    """Write it in place: heads of other tasks go, and every tensor has the name that the body gives it.

    Files are replaced, never written into: a cache may hold them too.

    Returns:
        its parameters.

    Raises:
        UserError: a model that is no encoder, or one that is not whole.
    """
    pooling.write(model_dir)
    model = load_model(model_dir, dtype="auto")
    with scratch(model_dir, "body") as body:
        model.save_pretrained(body)
        for path in model_dir.glob("*.safetensors*"):
            path.unlink()
        for path in body.iterdir():
            path.replace(model_dir / path.name)
    pooling.write(model_dir)
    return int(model.num_parameters())
