"""Fitted estimators made of dictionaries that were saved, and what those still lack."""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._core.data.source import Source
from .._core.formats import Request
from .._core.formats.card import card_of
from .._core.formats.hub import open_files
from .._core.normalization import RowNormalization
from .._core.optional import optional
from .._core.torch_state import plain_torch
from ..utils._warnings import warn
from ._alpha import ALPHA_FRACTION, location_and_scale
from ._base import coding_of
from ._code_quality import quality_of
from ._code_statistics import FitStatistics
from ._fitting import variance_of
from ._learned import Stream
from ._records import load, record_of, save

# Samples that a calibration looks at, evenly spread.
N_CALIBRATED = 100_000
# Samples that the scale of normalised rows is taken from.
N_FOR_SCALE = 10_000


class PretrainedMixin:
    """What estimators do with files, and with dictionaries that they have not trained."""

    def __getstate__(self):
        """Plain containers of arrays: files name no class beside the public ones."""
        state = dict(super().__getstate__())
        for name in ("_statistics", "_stream"):
            if state.get(name) is not None:
                state[name] = state[name].state_dict()
        if "input_normalization_" in state:
            state["input_normalization_"] = state["input_normalization_"]._asdict()
        return state

    def __setstate__(self, state):
        state = dict(state)
        for name, kind in (("_statistics", FitStatistics), ("_stream", Stream)):
            if isinstance(state.get(name), dict):
                state[name] = kind.from_state_dict(state[name])
        if isinstance(state.get("input_normalization_"), dict):
            state["input_normalization_"] = RowNormalization(**state["input_normalization_"])
        super().__setstate__(state)

    @plain_torch()
    def calibrate(self, X, y=None):
        """Take from activations what a dictionary of another library lacks, and look at the fit.

        `score` needs the density and magnitude of each feature, the noise variance and the
        variance of the data; coders with an L1 coefficient need ``alpha_``. The dictionary itself
        is not changed.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
            Activations of the place that the dictionary was trained on.
        y : None
            Ignored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If X has another number of columns, or the dictionary is a transcoder, which does not
            reconstruct what it reads.

        Warns
        -----
        UserWarning
            If reconstructions are further from X than its mean is: then X is not what the
            dictionary was trained on.
        """
        check_is_fitted(self)
        rows = self._source(X)
        mean, rms = location_and_scale(rows)
        if self.alpha_ is None:
            self.alpha_ = ALPHA_FRACTION * self._scale_of_coded(rows, rms)
        coding = coding_of(self)
        found = quality_of(coding, rows, N_CALIBRATED, origin=mean)
        vars(self).pop("feature_density_", None)  # of other data, where a file had it
        self.variance_ = variance_of(rms, rows)
        self._statistics = FitStatistics.known(found.statistics, rows.n_features)
        unexplained = 1 - found.explained_variance
        if unexplained > 1:
            warn(self._misfit(unexplained, found.l0, mean))
        return self

    def save_pretrained(self, folder, *, overwrite=False):
        """Write the fitted dictionary into a folder, with a model card.

        That of skdict's own format: ``config.json``, ``model.safetensors`` and ``README.md``. See
        :func:`skdict.io.save_dictionary` for those of other libraries.

        Parameters
        ----------
        folder : str or Path
        overwrite : bool, default=False
            Whether the files of a former call may be replaced.

        Raises
        ------
        FileExistsError
            If the folder holds files, and these may not be replaced.
        ImportError
            If safetensors is not installed.
        """
        save(self, Path(folder), overwrite=overwrite)

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder,
        *,
        revision=None,
        subfolder=None,
        local_files_only=False,
        token=None,
    ):
        """Load a dictionary of any format that is known, with all defaults.

        :func:`skdict.io.load_dictionary` does the same, and takes more options.

        Parameters
        ----------
        repo_or_folder : str or Path
            A folder on this machine, or a repository of a hub, "owner/name".
        revision : str, default=None
            A branch, tag or commit.
        subfolder : str, default=None
            The folder in it that holds one dictionary.
        local_files_only : bool, default=False
            Whether to look only into the cache of the hub, without a network.
        token : str, default=None
            For private repositories.

        Returns
        -------
        dictionary : object
            A fitted estimator of this class.

        Raises
        ------
        ValueError
            If the files are of no format or of several, are damaged, or hold what cannot be
            expressed.
        FileNotFoundError
            If there is no such folder, repository or revision.
        """
        files = open_files(
            repo_or_folder,
            subfolder,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
        )
        return load(files, Request(), cls)

    def push_to_hub(self, repo_id, *, revision=None, private=None, token=None):
        """Upload the fitted dictionary to a hub, as `save_pretrained` writes it, in one commit.

        Parameters
        ----------
        repo_id : str
            "owner/name". It is made if there is none.
        revision : str, default=None
            The branch to commit to, which is made if there is none. None is the main branch.
        private : bool, default=None
            Whether a new repository is private. None is what the owner has set.
        token : str, default=None
            One that may write. None takes the one that the hub's command line has saved.

        Returns
        -------
        commit : str
            The new commit, which can be given as ``revision`` when it is loaded.

        Raises
        ------
        ImportError
            If huggingface_hub or safetensors is not installed.
        """
        with optional("huggingface_hub", "push_to_hub", "skdict[io]"):
            from huggingface_hub import HfApi
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "dictionary"
            self.save_pretrained(folder)
            card = card_of(record_of(self), repo_id)
            (folder / "README.md").write_text(card, encoding="utf-8")
            api = HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message="Dictionary written by skdict",
            )
        return commit.oid

    def _scale_of_coded(self, rows, rms):
        """Centred RMS norm of rows as they are coded: `rms`, unless they are normalised."""
        normalise = self.dictionary_.normalization
        if normalise is None:
            return rms
        some, _, _ = normalise(rows[rows.spread(N_FOR_SCALE)])
        return location_and_scale(Source(some, some.device))[1]

    def _misfit(self, unexplained, l0, mean):
        """Why a dictionary may leave more of X than its mean does."""
        known = {k: v for k, v in getattr(self, "activation_", {}).items() if v is not None}
        trained_on = ", ".join(f"{name} {value}" for name, value in known.items())
        offset = float(np.abs(np.asarray(mean.cpu())).max())
        return (
            f"The dictionary leaves {unexplained:.3g} times the variance of X (fraction of "
            f"variance unexplained; L0 {l0:.3g}), more than the mean of X alone. So X is not what "
            "it was trained on. Look at: the layer, and whether its input or output is read; the "
            "scale of X (some libraries divide by a norm); whether the model's weights were "
            "centred, as TransformerLens does by default, so that each row has mean zero (the "
            f"largest column mean of X is {offset:.3g}); special tokens and the first position, "
            f"which most training leaves out. It was trained on: {trained_on or 'not known'}."
        )
