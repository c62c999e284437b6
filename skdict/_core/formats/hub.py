"""Files of a repository on the Hugging Face hub, or in its cache, at one commit.

Names come from one request, and each file that is read is one more. Nothing is read that no format
asks for.
"""

import difflib
import re
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from ..optional import optional
from .config import shorten
from .files import Files, with_configs

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
INSTALL = "skdict[io]"


def open_files(path_or_repo, path=None, *, revision=None, local_files_only=False, token=None):
    """Files of a folder on this machine or, if there is none, of a repository of that name.

    Parameters
    ----------
    path_or_repo : str or Path
    path : str or None
        A folder or file in it.
    revision, local_files_only, token
        As of `HubFiles`.

    Returns
    -------
    files : Files

    Raises
    ------
    FileNotFoundError
        If there is neither.
    """
    folder, parts = Path(path_or_repo), PurePosixPath(path or "").parts
    if ".." in parts or PurePosixPath(path or "").is_absolute():
        raise ValueError(
            f"path={path!r} must be a folder or file inside of {str(path_or_repo)!r}."
        )
    given = str(path_or_repo)
    if folder.exists() or not isinstance(path_or_repo, str) or not REPO_ID.fullmatch(given):
        if not folder.exists():
            raise FileNotFoundError(
                f"There is no file or folder {given!r}. A repository of a hub would be "
                "'owner/name'; SAELens' names of releases, as 'gpt2-small-res-jb', are none: its "
                "table says which repository and path they stand for."
            )
        if not (folder / (path or "")).exists():
            names = Files(folder).names
            raise FileNotFoundError(
                f"{given!r} has no file or folder {path!r}. {near_names(path, names)}."
            )
        return Files(folder / (path or ""))
    return HubFiles(
        given,
        "/".join(parts),
        revision=revision,
        local_files_only=local_files_only,
        token=token,
    )


def near_names(path, names):
    """Folders and files that a wrong path may mean, or else all, as part of an error.

    Parameters
    ----------
    path : str
    names : list of str
        Of files, with "/".

    Returns
    -------
    listed : str
    """
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents} - {"."}
    near = difflib.get_close_matches(path, sorted({*names, *folders}), 5, 0.5)
    # what ends as it does, however deep
    near += [name for name in sorted(folders) if name.endswith(path) and name not in near]
    return f"Near names: {shorten(near)}" if near else f"It has {shorten(sorted(names))}"


class HubFiles(Files):
    """Files of a repository, each fetched when it is first read.

    Parameters
    ----------
    repo_id : str
        "owner/name".
    path : str
        The folder or file that is looked at; "" is all.
    revision : str or None
        A branch, tag or commit; None is the main branch. It is resolved to a commit at once, so
        that all files are of the same.
    local_files_only : bool
        Whether to look only at what was fetched before.
    token : str or None
    """

    def __init__(self, repo_id, path="", *, revision=None, local_files_only=False, token=None):
        with optional("huggingface_hub", "Reading from a hub", INSTALL):
            import huggingface_hub  # noqa: F401
        self.repo_id, self.local_files_only, self.token = repo_id, local_files_only, token
        look = _cached if local_files_only else _listed
        with _errors_of(repo_id, revision):
            self.commit, names = look(repo_id, revision or "main", token)
        self.where = f"{repo_id}/{path}".rstrip("/")
        self.folder = path
        if path in names:
            self.folder, _, name = path.rpartition("/")
            self.names = with_configs(name, self._inside(self.folder, names, is_deep=False))
        else:
            self.names = self._inside(path, names)
        if not self.names:
            raise FileNotFoundError(self._no_such_path(path, names))
        self.problems = []

    def locate(self, name):
        """Fetch a file, unless it is in the cache."""
        from huggingface_hub import hf_hub_download

        with _errors_of(self.repo_id, self.commit, name):
            found = hf_hub_download(
                self.repo_id,
                f"{self.folder}/{name}".lstrip("/"),
                revision=self.commit,
                local_files_only=self.local_files_only,
                token=self.token,
            )
        return Path(found)

    def full(self, name):
        """The name of a file behind those of the repository and the folder."""
        return "/".join(part for part in (self.repo_id, self.folder, name) if part)

    def check_unchanged(self):
        """Files of a commit never change."""

    @property
    def place(self):
        """Where the files are, for provenance."""
        path = {"path": self.folder} if self.folder else {}
        return {"repo": self.repo_id, "commit": self.commit, **path}

    @staticmethod
    def _inside(folder, names, *, is_deep=True):
        """Names of files in a folder, relative to it."""
        start = f"{folder}/" if folder else ""
        inside = sorted(name[len(start) :] for name in names if name.startswith(start))
        return inside if is_deep else [name for name in inside if "/" not in name]

    def _no_such_path(self, path, names):
        has = near_names(path, names)
        if self.local_files_only:
            has += ". With local_files_only=True only files that were fetched before are seen"
        return f"{self.repo_id} has no file or folder {path!r} at commit {self.commit}. {has}."


def _listed(repo_id, revision, token):
    """The commit of a revision, and names of all files."""
    from huggingface_hub import HfApi

    info = HfApi(token=token).model_info(repo_id, revision=revision)
    if revision != info.sha:  # files are fetched by their commit, which leaves no note of it
        reference = _cache_of(repo_id) / "refs" / revision
        with suppress(OSError):  # a cache that cannot be written to
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(info.sha, encoding="utf-8")
    return info.sha, [sibling.rfilename for sibling in info.siblings or []]


def _cache_of(repo_id):
    """The folder of the cache for a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model")


def _cached(repo_id, revision, _):
    """The same of what the cache has."""
    folder = _cache_of(repo_id)
    commit, reference = revision, folder / "refs" / revision
    if not COMMIT.fullmatch(revision) and reference.is_file():
        commit = reference.read_text(encoding="utf-8").strip()
    snapshot = folder / "snapshots" / commit
    if not snapshot.is_dir():
        known = [path.name for path in (folder / "snapshots").glob("*")]
        raise FileNotFoundError(
            f"The cache of the hub, {str(folder.parent)!r}, has no revision {revision!r} of "
            f"{repo_id!r}: it has {shorten(known)}. Leave out local_files_only=True once to fetch "
            "it."
        )
    names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*")]
    return commit, [name for name in names if (snapshot / name).is_file()]


@contextmanager
def _errors_of(repo_id, revision, name=None):
    """Errors of the hub's library as those of files, in words that say what to do."""
    from huggingface_hub import errors

    what = repo_id if name is None else f"{repo_id}/{name}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{repo_id!r} is open only to those who have agreed to its terms. Do so on its page, "
            f"and give token=. ({_first_line(error)})"
        ) from None
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(
            f"{repo_id!r} has no revision {revision!r}. Give a branch, a tag or a commit that it "
            "has."
        ) from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"There is no folder {repo_id!r} here, and no repository of that name on the hub that "
            "can be seen without a token. A release of SAELens is not the name of a repository: "
            "its table says which repository and path it stands for. Of private ones give token=."
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{what} is not in the cache, and could not be fetched: {_first_line(error)}"
        ) from None
    except errors.EntryNotFoundError:
        raise FileNotFoundError(f"{what} does not exist at revision {revision!r}.") from None
    # the former's bases are those of all errors of the HTTP library in use
    except (*errors.HfHubHTTPError.__bases__, errors.OfflineModeIsEnabled, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ConnectionError(
            f"{what} could not be fetched: {_first_line(error)}. What was fetched before can be "
            "read with local_files_only=True."
        ) from error


def _first_line(error):
    return str(error).strip().split("\n")[0].rstrip(".")
