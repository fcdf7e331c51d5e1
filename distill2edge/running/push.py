"""A finished run, uploaded to a model hub: its exports, its card as README.md, its report and its recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.intake.hub import network_errors
from distill2edge.quantize.schemes import meant_scheme, schemes_in
from distill2edge.recipe.kept import told_text
from distill2edge.running.reading import exported, find_run, load_report, refuse_seeds
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_bytes

_DOCUMENTS = {"model_card.md": "README.md", "report.html": "report.html", "recipe.yaml": "recipe.yaml"}


def files_to_push(run: Path, schemes: Sequence[str] = ()) -> dict[str, Path]:
    """Path in the repository -> file of the run, in order.

    Args:
        schemes: only these exports (`gguf:Q8_0`); empty for all.

    Raises:
        UserError: no such export, or a run without exports.
    """
    exports = run / "exports"
    found = {path.relative_to(exports).as_posix(): path for path in exported(run) if path.is_file()}
    if not found:
        raise UserError("this run has no exports", where=str(run), fix="run its recipe to the end")
    if schemes:
        slugs = {scheme: scheme.replace(":", "-") for scheme in schemes}
        tops = {name.split("/")[0] for name in found}
        for scheme, slug in slugs.items():
            if not any(_is_of(top, slug) for top in tops):
                there = schemes_in(tops)
                fix = f"{meant_scheme(scheme, there)}there are: {', '.join(there)}"
                raise UserError(f"no export {scheme}", where=str(exports), fix=fix)
        found = {n: p for n, p in found.items() if any(_is_of(n.split("/")[0], slug) for slug in slugs.values())}
    documents = {target: run / name for name, target in _DOCUMENTS.items() if (run / name).is_file()}
    return {**documents, **found}


def push_run(
    run: Path, repo: str, *, schemes: Sequence[str], private: bool, allow_failed: bool, progress: Progress
) -> str:
    """Upload a run in one commit, to a repository that is made where it does not exist; returns the commit's address.

    Raises:
        UserError: nothing to upload, a run over several seeds or whose verdict failed, a name that is none, a token
            that may not write.
        EnvironmentFault: the hub cannot be reached.
    """
    _check_name(repo)
    run = find_run(run)
    report = load_report(run)
    refuse_seeds(run, "distill2edge push")
    if report["verdict"]["result"] != "pass" and not allow_failed:
        raise UserError(
            "this run's verdict is fail",
            where=str(run),
            fix="see in its report what failed, or push it all the same with --allow-failed",
        )
    files = files_to_push(run, schemes)
    if links := [str(path) for path in files.values() if path.is_symlink()]:
        raise UserError("a link, which may lead out of the run", where=links[0], fix="put the file itself there")
    told = told_text(files["recipe.yaml"]).encode() if "recipe.yaml" in files else b""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    size = sum(path.stat().st_size for path in files.values())
    progress.say(f"pushing {len(files)} files, {readable_bytes(size)}, to {api.endpoint}/{repo}")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [
            CommitOperationAdd(name, told if name == "recipe.yaml" else str(path)) for name, path in files.items()
        ]
        done = api.create_commit(repo, operations, commit_message=f"distill2edge run {report['name']}")
    except HFValidationError as error:
        raise UserError(f"not the name of a repository: {error}", where=repo, fix="OWNER/NAME") from error
    except HfHubHTTPError as error:
        raise _refused(error, repo) from error
    except network_errors() as error:
        raise EnvironmentFault(
            f"the hub cannot be reached: {type(error).__name__}: {error}",
            where=str(api.endpoint),
            fix="nothing of the run is lost: push again with a network (no HF_HUB_OFFLINE, HF_ENDPOINT for a mirror)",
        ) from error
    return str(done.commit_url)


def _check_name(repo: str) -> None:
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo):
        return  # what else a name must be, the hub's own library says
    address = re.fullmatch(r"(?:https?://[\w.:-]+/|hf://)(?:models/)?([\w.-]+/[\w.-]+)/?", repo)
    fix = f"write its name: {address[1]}" if address else "OWNER/NAME, of letters, digits and . _ -"
    raise UserError("not the name of a repository", where=repo[:200], fix=fix)


def _is_of(top: str, slug: str) -> bool:
    """Whether an entry of exports/ is that of a scheme: `NAME-gguf-Q8_0` for `gguf-Q8_0`."""
    return top.endswith(f"-{slug}")


def _refused(error: Exception, repo: str) -> UserError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return UserError(
            f"the hub refuses to write there ({status})",
            where=repo,
            fix="set HF_TOKEN to a token with write access, and name an owner that is yours",
        )
    return EnvironmentFault(f"the hub refused: {error}", where=repo, fix="try again later; nothing of the run is lost")
