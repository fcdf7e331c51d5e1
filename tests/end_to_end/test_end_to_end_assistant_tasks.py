"""Every task by way of an assistant: the student starts from what the larger one has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from test_end_to_end_embedding import place as embedding  # noqa: F401
from test_end_to_end_multi_label import place as multi_label  # noqa: F401
from test_end_to_end_regression import place as regression  # noqa: F401
from test_end_to_end_seq2seq import place as seq2seq  # noqa: F401
from test_end_to_end_tokens import place as tokens  # noqa: F401

import distill2edge as d2e

pytestmark = pytest.mark.slow

CHANGES: dict[str, Any] = {"student.init.layers": 1, "student.assistant": {"layers": 2}}


@pytest.mark.parametrize("task", ["embedding", "multi_label", "regression", "seq2seq", "tokens"])
def test_the_student_has_layers_of_the_taught_assistant(task: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(task)
    (path,) = root.glob("*.yaml")
    run = d2e.run(path, CHANGES, upto="merge", store=root / "store", quiet=True)
    places = [
        run.artifacts[name].path / "model" for name in ("student assistant", "merge assistant", "student assisted")
    ]
    untaught, taught, begun = (load_file(place / "model.safetensors") for place in places)
    first = next(name for name in begun if any(part in name for part in ("layer.0.", "block.0.")) and "weight" in name)
    assert (begun[first] == taught[first]).all()
    assert any((untaught[name] != taught[name]).any() for name in untaught)
    assert len(begun) < len(taught)
    assert run.artifacts["merge"].path.is_dir()
