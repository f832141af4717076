"""Data sets on the Hugging Face hub: files by address, fetched once, then read like any local file.

    python -m trainer midtrain --data hub                       the stage's usual datasets
    python -m trainer pretrain --data hf://datasets/HuggingFaceFW/fineweb-edu/sample/10BT/*.parquet

Given: an address. Hands on: paths into the hub's own cache, so that a later run needs no network.
Never: uses the network or imports huggingface_hub unless asked for the hub, or waits for it without a timeout.
"""

import fnmatch
import glob
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from trainer.errors import UserError

SCHEME = "hf://datasets/"
ADDRESS = re.compile(re.escape(SCHEME) + r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<files>.+))?")
DATA_FILES = "*.parquet", "*.jsonl", "*.json"
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.parquet")
TIMEOUT_SECONDS = 10.0


class Address(NamedTuple):
    """hf://datasets/OWNER/NAME[@REVISION][/FILES], where FILES may have * in it; spelt as the hub's own tools do."""

    repo: str
    revision: str | None
    files: tuple[str, ...]  # Patterns of paths in the repository; * also matches a slash.

    @property
    def name(self) -> str:
        return self.repo.partition("/")[2]

    def matches(self, file: str) -> bool:
        return any(fnmatch.fnmatch(file, pattern) for pattern in self.files)


class Unreachable(UserError):
    """The hub does not answer, or its library is missing, and the cache has none of the files."""


def is_address(text: str | None) -> bool:
    return text is not None and text.startswith("hf://")


def parse(text: str) -> Address:
    """Raises UserError for what is no address."""
    found = ADDRESS.fullmatch(text)
    if found is None:
        raise UserError(
            f"{text!r} is no address on the hub", f"write {SCHEME}OWNER/NAME or {SCHEME}OWNER/NAME/*.parquet"
        )
    return Address(found["repo"], found["revision"], (found["files"],) if found["files"] else DATA_FILES)


def fetch(address: Address, files_max: int | None = None) -> list[Path]:
    """The files of an address in order of name; of more than ``files_max`` the first ones and the last.

    Every process may call this: the library locks its cache, so one of them downloads and the others wait.
    Raises Unreachable if the hub does not answer and the cache is empty, UserError if there is no such data set.
    """
    library = _library()
    endpoint = os.environ.get("HF_ENDPOINT")
    where: dict[str, Any] = {"repo_id": address.repo, "revision": address.revision, "repo_type": "dataset"}
    try:
        info = library.HfApi(endpoint=endpoint).repo_info(**where, timeout=TIMEOUT_SECONDS)
        names = chosen([file.rfilename for file in info.siblings or ()], address, files_max)
        folder = library.snapshot_download(
            **where, endpoint=endpoint, etag_timeout=TIMEOUT_SECONDS, allow_patterns=[glob.escape(n) for n in names]
        )
    except (library.errors.RepositoryNotFoundError, library.errors.RevisionNotFoundError) as error:
        raise UserError(
            f"the hub has no data set {address.repo} that you may read", "check the name; for a gated one set HF_TOKEN"
        ) from error
    except (OSError, library.errors.HTTPError) as error:  # Requests' errors are OSErrors, httpx' are HTTPErrors.
        if cached := _cached(library, address):
            return [cached[name] for name in chosen(cached, address, files_max)]
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unreachable(
            f"the hub cannot be reached for {address.repo}: {reason}",
            "fetch the files elsewhere and give --data FOLDER, or take the built-in data with --without_hub builtin",
        ) from error
    return [Path(folder) / name for name in names]


def chosen(names: Iterable[str], address: Address, files_max: int | None) -> list[str]:
    """Raises UserError if no file matches."""
    found = sorted(without_copies(name for name in names if address.matches(name)))
    if not found:
        raise UserError(
            f"{address.repo} has no file {' or '.join(address.files)}", "check the part of the address after its name"
        )
    if files_max is not None and len(found) > files_max:
        found = [*found[: files_max - 1], found[-1]]
    return found


def without_copies(names: Iterable[str]) -> list[str]:
    """Each row once: data sets such as SmolTalk have them in shards of a folder "all", and again by subset in the
    folders beside it. Those are left out, split by split."""
    paths = {name: PurePosixPath(name) for name in names}
    splits = {name: found[1] for name, path in paths.items() if (found := SHARD.fullmatch(path.name))}
    whole = {(paths[name].parent.parent, split) for name, split in splits.items() if paths[name].parent.name == "all"}
    return [
        name
        for name, path in paths.items()
        if path.parent.name in ("", "all") or (path.parent.parent, splits.get(name)) not in whole
    ]


def _cached(library: Any, address: Address) -> dict[str, Path]:
    """What an earlier run has fetched, by name: the newest revision's, or the one that was asked for."""
    try:
        repos = library.scan_cache_dir(library.constants.HF_HUB_CACHE).repos
    except (library.CacheNotFound, OSError):
        return {}
    revisions = [
        revision
        for repo in repos
        if (repo.repo_type, repo.repo_id) == ("dataset", address.repo)
        for revision in repo.revisions
        if address.revision in (None, revision.commit_hash, *revision.refs)
    ]
    if not revisions:
        return {}
    newest = max(revisions, key=lambda revision: revision.last_modified)
    files = {str(file.file_path.relative_to(newest.snapshot_path)): file.file_path for file in newest.files}
    return {name: path for name, path in files.items() if address.matches(name)}


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise Unreachable(
            "data from the hub needs huggingface_hub, which is not installed",
            "pip install 'trainer-sidecar[hub]', or take the built-in data with --without_hub builtin",
        ) from error
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
    return huggingface_hub
