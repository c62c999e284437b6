"""What is done with rows of activations between a model and a dictionary that was loaded."""

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import validate_data


class RowTransform(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Rows as the model of a published dictionary had them: (x - shift - mean) / divisor · scale.

    TransformerLens, with which many were trained, centres what is written to the residual stream,
    and reads norms without their weight.

    Parameters
    ----------
    centre : bool, default=False
        Whether the mean of each row is subtracted.

    shift : array-like of shape (n_features,), default=None
        What is subtracted from each row before.

    divisor : array-like of shape (n_features,), default=None
        What its columns are divided by.

    equal_norms : bool, default=False
        Whether each row is brought to the norm √n_features then. Rows of zeros stay what they
        are.

    scale : float, default=1.0
        What rows are multiplied by at last.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns of X seen during fit.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if they are strings.

    Examples
    --------
    >>> from skdict.feature_extraction import RowTransform
    >>> RowTransform(centre=True, scale=0.5).fit_transform([[1.0, 3.0], [2.0, 4.0]])
    array([[-0.5,  0.5],
           [-0.5,  0.5]])
    """

    def __init__(self, *, centre=False, shift=None, divisor=None, equal_norms=False, scale=1.0):
        self.centre = centre
        self.shift = shift
        self.divisor = divisor
        self.equal_norms = equal_norms
        self.scale = scale

    def fit(self, X, y=None):
        """Check X and the parameters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Activations.
        y : None
            Ignored.

        Returns
        -------
        self : object
        """
        validate_data(self, X, dtype=[np.float64, np.float32])
        for name in ("shift", "divisor"):
            value = getattr(self, name)
            if value is not None and np.shape(value) != (self.n_features_in_,):
                raise ValueError(
                    f"{name} has shape {np.shape(value)}, but X has {self.n_features_in_} columns."
                )
        if self.divisor is not None and not np.all(self.divisor):
            raise ValueError("divisor has entries that are zero.")
        return self

    def transform(self, X):
        """Transform rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Activations.

        Returns
        -------
        X_transformed : ndarray of shape (n_samples, n_features)
        """
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        dtype = X.dtype
        if self.shift is not None:
            X = X - np.asarray(self.shift, dtype)
        if self.centre:
            X = X - X.mean(axis=1, keepdims=True)
        if self.divisor is not None:
            X = X / np.asarray(self.divisor, dtype)
        if self.equal_norms:
            norms = np.linalg.norm(X, axis=1, keepdims=True)
            X = X / np.where(norms > 0, norms / X.shape[1] ** 0.5, 1)
        return (X * self.scale).astype(dtype, copy=False)

    def inverse_transform(self, X):
        """Undo it, as far as rows tell: a mean that was subtracted is lost.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Transformed rows.

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features)

        Raises
        ------
        ValueError
            If the rows were brought to equal norms: how long they were is lost.
        """
        if self.equal_norms:
            raise ValueError(
                "equal_norms=True leaves no trace of how long each row was, so that it cannot be "
                "undone. Give what reconstructs rows the transformed ones: pipeline[-1], and not "
                "the whole Pipeline."
            )
        X = np.asarray(X)
        dtype = X.dtype
        X = X / self.scale
        if self.divisor is not None:
            X = X * np.asarray(self.divisor, dtype)
        if self.shift is not None:
            X = X + np.asarray(self.shift, dtype)
        return X.astype(dtype, copy=False)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.requires_fit = True
        return tags
