"""`teacher.workers`: a teacher's work shared out over the workers of a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import Field

from distill2edge.errors import Problem
from distill2edge.recipe.section import Section

AUTO = "auto"
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):(\d{1,5})")
_CLIENT = "ray://"


class Workers(Section):
    """Where the teacher reads and writes its rows, shard by shard: no part of any key."""

    ray: str = Field(
        AUTO,
        description="of the Ray cluster, of which this machine is a node: host:port | auto: one that runs on this "
        "machine, else one that is started here for the work and ends with it",
    )
    replicas: int = Field(..., ge=1, description="workers; each loads the teacher once")
    cpus: int = Field(1, ge=1, description="cores of each, and the threads that it computes with")
    gpus: int = Field(0, ge=0, description="GPUs of each; 0: it computes on its cores")

    @property
    def endpoint(self) -> tuple[str, int] | None:
        """Host and port of the address; None of `auto`."""
        found = _ADDRESS.fullmatch(self.ray)
        return None if found is None else (found[1].strip("[]"), int(found[2]))

    @property
    def words(self) -> str:
        """For people."""
        count = f"{self.replicas} worker{'s' if self.replicas > 1 else ''}"
        each = f"{self.cpus} core{'s' if self.cpus > 1 else ''}"
        gpus = f" and {self.gpus} GPU{'s' if self.gpus > 1 else ''}" if self.gpus else ""
        return f"{count} of {each}{gpus}{' each' if self.replicas > 1 else ''} (ray: {self.ray})"

    def problems(self) -> Iterator[Problem]:
        """An address that is none, or of Ray's client: it gives no word on the shards that a lost server has made."""
        if self.ray.startswith(_CLIENT):
            what = f"{self.ray}: Ray's client is not supported"
            yield Problem(("ray",), what, "run the command on a node of the cluster, and write auto or host:port")
            return
        if self.ray != AUTO and (self.endpoint is None or not 0 < self.endpoint[1] < 65536):
            what = f"{self.ray!r} is no address of a Ray cluster"
            yield Problem(("ray",), what, "write auto or host:port")
