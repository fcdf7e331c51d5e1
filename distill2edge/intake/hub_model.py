"""Models of the hub: the commit, the licence of the card, and a snapshot of safetensors and tokenizer."""

from __future__ import annotations

from pathlib import Path

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.intake import licence as gate
from distill2edge.intake.hub import network_errors
from distill2edge.intake.model_files import INDEX, SMALL
from distill2edge.util.progress import Progress


class HubModel:
    """A model of the hub, or what an earlier run left of it in the local cache."""

    def __init__(self, model: str, revision: str | None, where: str) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        self.model, self.where = model, where
        self._cached: Path | None = None
        self._card: list[gate.Declared] = []
        try:
            info = HfApi().model_info(model, revision=revision, timeout=30)
        except GatedRepoError as error:
            raise self._gated() from error
        except RevisionNotFoundError as error:
            raise UserError(
                f"{model} has no revision {revision!r}", where="teacher.revision", fix="give a commit, tag or branch"
            ) from error
        except RepositoryNotFoundError as error:
            raise UserError(
                f"no model {model} on the hub, or it is private",
                where=where,
                fix="check the name (a local path starts with ./); for a private one set HF_TOKEN",
            ) from error
        except network_errors() as error:
            self._cached = self._local(revision, error)
            self.revision: str | None = self._cached.name
            return
        self.revision = info.sha
        if info.card_data is not None:
            self._card = gate.from_front_matter(info.card_data.to_dict())

    def declared(self) -> list[gate.Declared]:
        """What the model card says of the licence."""
        if self._cached and (self._cached / "README.md").is_file():
            return gate.from_card_file(self._cached / "README.md")
        return self._card

    def download(self, progress: Progress) -> Path:
        """Fetch weights and tokenizer; what the cache has is not fetched again."""
        if self._cached:
            return self._cached
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError

        progress.say(f"fetching {self.model} at {self.revision}")
        try:
            return Path(
                snapshot_download(self.model, revision=self.revision, allow_patterns=[*SMALL, "*.safetensors", INDEX])
            )
        except GatedRepoError as error:
            raise self._gated() from error
        except network_errors() as error:
            raise EnvironmentFault(
                f"the download of {self.model} was interrupted: {error}", where=self.where, fix="run again: it resumes"
            ) from error

    def _local(self, revision: str | None, cause: Exception) -> Path:
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.model, revision=revision, local_files_only=True))
        except network_errors() as error:
            raise EnvironmentFault(
                f"the hub can't be reached for {self.model}, and it is not in the local cache ({cause})",
                where=self.where,
                fix="connect (and unset HF_HUB_OFFLINE), or give a local directory, a .gguf file, or a model that "
                "installs as a package: bundled:smollm2-135m-instruct",
            ) from error

    def _gated(self) -> UserError:
        return UserError(
            f"{self.model} is gated",
            where=self.where,
            fix=f"accept its terms at https://huggingface.co/{self.model} and set HF_TOKEN",
        )
