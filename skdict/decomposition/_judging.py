"""A look at what a fit has found: how well it codes rows, and warnings where that is badly."""

from sklearn.exceptions import ConvergenceWarning

from .._core.training.loop import diverged
from ..utils._warnings import warn
from ._code_quality import N_ROWS_AT_A_TIME, quality_of
from ._reports import is_part_of_search

# Rows, evenly spread, on which a fit is looked at when it is over, and a portion of a stream.
N_JUDGED_ROWS = 2048
N_JUDGED_OF_PORTION = 1024
# Rows that are searched for an active feature if none is found on those.
N_SEARCHED_ROWS = 20_000
# With fewer held-out rows it cannot be told whether rows are learned by heart.
LEAST_HELD_OUT = 10
# Codes have diverged that leave so many times the squared error of no codes at all; a fit that
# ends with more than the second is warned of.
DIVERGED = 100
WORSE_THAN_NOTHING = 1.5
# Rows are learned by heart where held-out ones lose more than this part of the explained variance,
# and at least so much of the variance: few rows differ by chance.
MEMORISED = 0.25
LEAST_LOST = 0.1


def look(found, coding):
    """Fitted attributes that say how well rows are coded, of the fit and held-out ones.

    Parameters
    ----------
    found : Found
    coding : Coding

    Returns
    -------
    attributes : dict
    """
    of_fit = judge(found, coding)
    attributes = {"train_explained_variance_": of_fit.explained_variance, "train_l0_": of_fit.l0}
    if found.held_out is None:
        return attributes
    rows = found.held_out
    held_out = quality_of(coding, rows, N_JUDGED_ROWS)
    if not is_part_of_search():  # of which the last fit warns
        _warn_of_memorising(found, of_fit, held_out)
    return attributes | {
        "validation_explained_variance_": held_out.explained_variance,
        "validation_l0_": held_out.l0,
        "_held_out": rows.copy(),
    }


def _warn_of_memorising(found, of_fit, held_out):
    known, new = of_fit.explained_variance, held_out.explained_variance
    is_lost = new <= (1 - MEMORISED) * known and new <= known - LEAST_LOST
    can_tell = held_out.varies and held_out.statistics.n_samples >= LEAST_HELD_OUT
    if not (can_tell and is_lost):
        return
    warn(
        f"The dictionary has learned samples by heart: it explains {known:.2f} of the variance of "
        f"those of the fit (L0 {of_fit.l0:.3g}), and {new:.2f} of {len(found.held_out)} that were "
        f"held out (L0 {held_out.l0:.3g}). {len(found.dictionary.components)} atoms were learned "
        f"from {len(found.rows)} samples. Take more samples. Without them, fewer atoms "
        "(n_components) or a larger alpha bring the figures together, but explain less."
    )


def judge(found, coding, *, is_over=True):
    """Raise or warn if a fit has found what is worse than nothing, or nothing.

    Parameters
    ----------
    found : Found
    coding : Coding
    is_over : bool
        A stream is not, and what it has not learned yet it may learn from what comes.

    Returns
    -------
    measured : CodeQuality
        Of `N_JUDGED_ROWS` of its rows; of a portion that is larger of an eighth.
    """
    n_steps, loss_curve = found.counters["n_steps_"], found.counters["loss_curve_"]
    if not found.dictionary.is_sound:
        raise diverged("the dictionary is not finite, or zero", n_steps, loss_curve)
    n_rows = len(found.rows)
    n_judged = N_JUDGED_ROWS if is_over else max(N_JUDGED_OF_PORTION, n_rows // 8)
    measured = quality_of(coding, found.rows, n_judged, origin=found.solver.mean, warns=True)
    statistics = measured.statistics
    if statistics.counts.sum() == 0:
        _warn_of_nothing(found, coding)
    if coding.name != "encoder":  # codes that were not trained tell nothing of the training
        return measured
    # massive samples do not count for the variance, and a stream may change
    least = statistics.n_samples * found.rows.n_features * found.variance
    ratio = measured.error / max(measured.squares, least)
    if ratio <= WORSE_THAN_NOTHING:
        return measured
    symptom = f"the codes leave {ratio:.3g} times the squared error of no codes at all"
    if not ratio <= DIVERGED:
        raise diverged(symptom, n_steps, loss_curve)
    if is_over:
        warn(
            f"Training has not converged, or diverges: after {n_steps} steps, {symptom}. Raise "
            "max_iter; if that does not help, lower learning_rate_init, or leave it 'auto'.",
            ConvergenceWarning,
        )
    return measured


def _warn_of_nothing(found, coding):
    """Warn if none of the codes of many rows has an entry."""
    n_rows = min(len(found.rows), N_SEARCHED_ROWS)
    with coding.coder(found.rows, warns=False) as code:
        for chunk in found.rows.spread(n_rows).split(N_ROWS_AT_A_TIME):
            if code(found.rows[chunk]).values.any():
                return
    nothing = f"No feature is active on any of {n_rows} samples: "
    k = getattr(found.dictionary.architecture, "k", None)
    if coding.name == "encoder" and k is not None:
        warn(
            f"{nothing}none exceeds the threshold that training has come to. Use more passes "
            "(max_iter) or a larger n_nonzero_coefs."
        )
    else:
        alpha = coding.options.get("alpha", found.alpha)
        name = "alpha_" if alpha == found.alpha else "transform_alpha"
        # steps change nothing where atoms are not learned, or another alpha decides
        n_steps = found.counters["n_steps_"] if name == "alpha_" else 0
        cause = f", or {n_steps} steps are too few" if n_steps else ""
        remedy = ", or raise max_iter" if n_steps else ""
        warn(
            f"{nothing}{name}={alpha:.3g} is too large for the scale of X{cause}. Take a smaller "
            f"value of alpha_grid(X){remedy}."
        )
