"""What counts as zero, as dependent and as converged in the Lasso and in OMP, on every device; and
what counts as few.
"""

# Fewer rows are coded by the plain product of an encoder: rounding its weight to 8 bits costs more
# than it saves.
FEW_ROWS = 64

# Atoms that enter a sample's working set at a time (one by one on the CPU: or half as many as its
# support has, if that is more).
N_ENTRANTS = 16
# Relative tolerance of the optimality conditions in a working set: a correlation may exceed alpha
# by this fraction.
SLACK = 1e-8
# Stop when the objective decreases by less than this fraction of ‖x‖²: that is rounding.
STALLED = 1e-15
# An atom depends on the atoms before it where its pivot is less than this fraction of the
# diagonal.
MIN_PIVOT = 1e-8
# Changes of the support in a working set, at most, for each of its atoms.
MAX_EXCHANGES = 5
# OMP removes negative codes by a Lasso with this alpha, as a fraction of the largest correlation.
ALPHA_OF_OMP = 1e-6
