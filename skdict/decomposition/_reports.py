"""What a fit tells while it goes on: scikit-learn's callbacks, and what ``verbose`` prints."""


class Reports:
    """Of one fit.

    Parameters
    ----------
    estimator : estimator
    X : array-like, or callable that returns it
    y : array-like or None
    context : sklearn.callback.CallbackContext
        Of the whole fit.
    """

    def __init__(self, estimator, X, y, context):
        self.estimator = estimator
        # Callbacks want a target; that of a reconstruction is X.
        self.data = {"estimator": estimator, "X": X, "y": X if y is None else y}
        self.context = context
        self.task = None

    def begin(self):
        self.context.call_on_fit_task_begin(**self.data)

    def begin_epoch(self):
        self.task = self.context.subcontext(task_name="pass")
        self.task.call_on_fit_task_begin(**self.data)

    def end_epoch(self, loop, attributes):
        """Whether a callback wants to stop; ``attributes()`` are those of the fit as it is."""
        if self.estimator.verbose:
            what = f"pass {len(loop.loss_curve)}/{loop.n_epochs}"
            print_progress(self.estimator, what, loop.loss_curve, loop.validation_curve)
        return self.task.call_on_fit_task_end(**self.data, reconstruction_attributes=attributes)

    def end(self):
        self.context.call_on_fit_task_end(**self.data, reconstruction_attributes=dict)


def print_progress(estimator, what, loss_curve, validation_curve=()):
    """Say what has been done, with the last entries of the curves that are not empty."""
    curves = {"objective": loss_curve, "of held-out samples": validation_curve}
    values = ", ".join(f"{name} {curve[-1]:.6g}" for name, curve in curves.items() if curve)
    print(f"[{type(estimator).__name__}] {what}: {values or 'done'}")
