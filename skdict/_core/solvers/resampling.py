"""Resampling: dead features and duplicates of others get a new atom and encoder."""

import math

import torch

from ..distributed.candidates import merge_candidates
from ..kernels import Support, add_at_, sampled_product, select, transposed_product
from ..optim import fitting_scale, normalize_, remove_along_

# Two features are duplicates if the cosine of their atoms and that of their encoders exceed this.
DUPLICATE_COSINE = 0.9
# Atoms that are compared with all others at a time.
ROWS_TO_COMPARE = 4096
# Only an atom's nearest neighbours are checked for duplicates.
N_NEAREST = 8
# Smallest number of samples of the batch on which an atom must be active to be split.
MIN_SAMPLES_TO_SPLIT = 10
# Largest number of features that are revived or split at a time: this fraction of all, or, of a
# small dictionary, this number. New features tend to be active together.
MAX_RESAMPLED = 0.05
MAX_RESAMPLED_OF_FEW = 100
# Samples on which a feature is active that is given its direction back, as a fraction of all.
DENSITY_OF_GIVEN = 0.02
POWER_ITERATIONS = 8
# Atoms whose random numbers are drawn together.
DRAWN_TOGETHER = 4096


@torch.no_grad()
def revive(autoencoder, optimizer, dead, x, residual, generator, directions=None):
    """Point dead features at samples that are badly reconstructed.

    As in "Towards Monosemanticity": samples are drawn with probability proportional to their
    squared loss (here, to ‖x - x̂‖⁴), the atom becomes the centred sample, scaled to unit norm,
    the encoder row the same direction at 0.2 times the mean norm of the rows that are alive, the
    bias zero, and Adam's state of the feature is forgotten.

    Several features may be pointed at the same samples, and would together add several times the
    residual. So at most a fraction `MAX_RESAMPLED` of all is revived at a time, drawn at random,
    and their encoders are scaled down by the common factor that fits the residual best, by least
    squares.

    Parameters
    ----------
    dead : tensor of shape (n_components,), bool
    x : tensor of shape (n_samples, n_features)
        Samples to draw from.
    residual : tensor of shape (n_samples, n_features)
        Their x - x̂.
    generator : torch.Generator
        On the CPU, so that the draw does not depend on the device.
    directions : tensor of shape (n_components, n_features), optional
        Unit rows that dead features are pointed at instead of samples. Their biases are such that
        they are active on few.
    """
    rows = dead.nonzero()[:, 0]
    if len(rows) == 0:
        return
    weights = residual.double().square().sum(dim=1).square().cpu()
    if not 0 < weights.sum() < math.inf:  # nothing is missing, or the training has diverged
        return
    n_revived = min(len(rows), _most_resampled(len(dead)))
    order = torch.randperm(len(rows), generator=generator, device="cpu")
    rows = rows[order[:n_revived].to(rows.device)]
    centred = x - autoencoder.intercept
    is_given = directions is not None
    if not is_given:
        with_replacement = len(rows) > int((weights > 0).sum())
        drawn = torch.multinomial(weights, len(rows), with_replacement, generator=generator)
        directions = normalize_(centred[drawn.to(x.device)])
    else:
        directions = directions[rows]
    strategy = autoencoder.strategy
    norms = strategy.whole(torch.linalg.vector_norm(autoencoder.encoder_weight, dim=1))
    alive_norm = norms[~dead].mean() if bool((~dead).any()) else norms.mean()
    weight = 0.2 * alive_norm * directions
    pre_activations = centred @ weight.T
    bias = weight.new_zeros(len(weight))
    if is_given:  # at no sample: without a bias they would be active on half of all
        n_active = max(1, round(DENSITY_OF_GIVEN * len(x)))
        bias -= pre_activations.topk(n_active, dim=0).values[-1]
    added = torch.relu(pre_activations + bias) @ directions
    scale = fitting_scale(added, residual).clamp(0.0, 1.0)
    weight, bias = scale * weight, scale * bias
    mine, rows = strategy.located(rows)
    autoencoder.dictionary[rows] = directions[mine]
    autoencoder.encoder_weight[rows] = weight[mine]
    autoencoder.encoder_bias[rows] = bias[mine]
    architecture = autoencoder.architecture
    initial = architecture.initial_state(torch.zeros_like(autoencoder.encoder_bias))
    for name in initial.keys() - set(architecture.running_stats):
        autoencoder.state[name][rows] = initial[name][rows]
    optimizer.reset_rows(rows)


def _most_resampled(n_components):
    return max(MAX_RESAMPLED_OF_FEW, math.ceil(MAX_RESAMPLED * n_components))


@torch.no_grad()
def merge_duplicates(autoencoder, alive):
    """Merge duplicates: one of the two features gets both encoders, the other becomes free.

    Two features are duplicates if the cosine of their atoms exceeds `DUPLICATE_COSINE`, and that
    of their encoders too, the bias included: p = w·x + b is the product of (w, b/√d) with (x, √d),
    and ‖x‖ is about √d in training, so these vectors are compared. Duplicates are active on about
    the same samples, so that the sum of their encoders gives the sum of their codes: max(0, p) +
    max(0, q) = max(0, p + q) where p and q have the same sign.

    Parameters
    ----------
    alive : tensor of shape (n_components,), bool
        Features to look at.

    Returns
    -------
    free : tensor of shape (n_components,), bool
        The features that are no longer needed. Their encoders are zero.
    """
    atoms, weight, bias = (p.detach() for p in autoencoder.row_parameters[:3])
    strategy = autoencoder.strategy
    encoder = normalize_(torch.cat([weight, bias[:, None] / math.sqrt(atoms.shape[1])], dim=1))
    # (n_components,): the first feature that each is a duplicate of, else its own number
    first = _first_duplicates(atoms, encoder, alive, strategy)
    root = first[first]
    while not torch.equal(root, first):
        first, root = root, root[root]
    rows = (root < torch.arange(len(root), device=root.device)).nonzero()[:, 0]
    pairs = [strategy.rows_at(t, i) for i in (rows, root[rows]) for t in (atoms, encoder)]
    rows = rows[_alike(*pairs)]  # of a chain a ~ b ~ c only b goes
    _, merged = strategy.located(root[rows].unique())
    norms = torch.linalg.vector_norm(weight, dim=1)
    mine, roots = strategy.located(root[rows])
    _, places = strategy.located(rows)
    for parameter in (weight, bias):
        add_at_(parameter, roots, strategy.rows_at(parameter, rows)[mine])
        parameter[places] = 0
    growth = torch.linalg.vector_norm(weight[merged], dim=1) / norms[merged]
    autoencoder.architecture.rescale(autoencoder.state, merged, growth)
    free = torch.zeros_like(alive)
    free[rows] = True
    return free


def _first_duplicates(atoms, encoder, alive, strategy):
    """The first feature that each (n_components,) is a duplicate of, else its own number.

    Processes that hold different features each get the atoms and encoders of a block, and look
    for duplicates of these among their own.
    """
    index = alive.nonzero()[:, 0]
    mine, places = strategy.located(index)
    candidates, own = atoms[places], index[mine]  # and their numbers
    first = torch.arange(len(alive), device=atoms.device)
    for start in range(0, len(index), ROWS_TO_COMPARE):
        block = index[start : start + ROWS_TO_COMPARE]
        of_block = strategy.rows_at(atoms, block), strategy.rows_at(encoder, block)
        n_before = int((own <= block[-1]).sum())
        n_nearest = min(N_NEAREST, start + len(block))
        pairs = _nearest(of_block[0], candidates[:n_before], n_nearest, strategy)
        later, earlier = block[pairs.rows], own[pairs.indices]
        pair = [
            *(t[pairs.rows] for t in of_block),
            *(t[places[pairs.indices]] for t in (atoms, encoder)),
        ]
        found = (earlier < later) & _alike(*pair)
        first.scatter_reduce_(0, later[found], earlier[found], "amin")
    return strategy.features.min_(first)


def _nearest(block, candidates, k, strategy):
    """Of the k candidates of all processes nearest to each row of a block, those of this one."""
    bias = candidates.new_full((len(candidates),), -DUPLICATE_COSINE)
    if not strategy.shards_atoms:
        return select(block, candidates, bias, k)
    if len(candidates):
        pairs = select(block, candidates, bias, min(k, len(candidates)))
    else:
        pairs = Support.of(block.new_zeros(len(block), 0))[0]
    return merge_candidates(pairs, sampled_product(block, candidates, pairs), k, strategy)


def _alike(atoms, encoder, other_atoms, other_encoder):
    """Whether the pairs of features, m and m, are duplicates: bool of shape (m,)."""
    cosines = torch.linalg.vecdot(atoms, other_atoms), torch.linalg.vecdot(encoder, other_encoder)
    return torch.stack([cosine > DUPLICATE_COSINE for cosine in cosines]).all(dim=0)


@torch.no_grad()
def split(autoencoder, optimizer, free, keep, support, values, residual, generator):
    """Split atoms that stand for two directions, and give one half of each to a free feature.

    An atom that has merged two true directions leaves residuals along their difference, with
    either sign. The direction v of most residual energy on the samples where an atom is active,
    orthogonal to the atom, is found by power iteration; the atoms with the largest energy are
    replaced by D_j + s₊ v and D_j + s₋ v, where s± are the least-squares slopes of r·v on the
    code over the samples with r·v > 0 and < 0. Split and merge, as for mixture models in Ueda et
    al., "SMEM algorithm for mixture models", Neural Computation 12, 2000.

    Parameters
    ----------
    free : tensor of shape (n_components,), bool
    keep : tensor of shape (n_components,), bool
        Features that are not to be split.
    support : Support
        Of a batch of samples.
    values : tensor of shape (nnz,)
        Its codes.
    residual : tensor of shape (B, n_features)
        Its x - b - z D.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    left : tensor of shape (n_components,), bool
        The free features for which there was no atom to split.
    """
    rows = free.nonzero()[:, 0]
    if len(rows) == 0:
        return free
    atoms, strategy = autoencoder.dictionary, autoencoder.strategy

    def per_feature(entries):
        sums = torch.zeros(len(atoms), dtype=entries.dtype, device=entries.device)
        return add_at_(sums, support.indices, entries)

    active = values != 0
    direction = draw_rows_of_atoms(len(free), atoms.shape[1], strategy, generator).to(atoms)
    for _ in range(POWER_ITERATIONS):
        direction = normalize_(remove_along_(direction, atoms))
        slopes = sampled_product(residual, direction, support) * active
        direction = transposed_product(slopes, support, residual)
    direction = normalize_(remove_along_(direction, atoms))
    along = sampled_product(residual, direction, support) * active

    energy = per_feature(along.square())
    is_rare = per_feature(active.to(along)) < MIN_SAMPLES_TO_SPLIT
    energy[strategy.own(free | keep) | is_rare] = 0
    energy = strategy.whole(energy)
    n_splits = min(len(rows), int(torch.count_nonzero(energy)), _most_resampled(len(free)))
    parents = energy.topk(n_splits).indices
    left = free.clone()
    left[rows[: len(parents)]] = False
    rows = rows[: len(parents)]

    # At first both halves are active wherever the atom was, so each gets half of its code. With
    # all of it they would add it twice, and be merged again into an atom with twice the code.
    weight, bias = autoencoder.encoder_weight, autoencoder.encoder_bias
    mine, own = strategy.located(parents)
    norms = 0.5 * torch.linalg.vector_norm(weight[own], dim=1, keepdim=True)
    bias[own] *= 0.5
    autoencoder.architecture.rescale(autoencoder.state, own, bias.new_full((len(own),), 0.5))
    old = atoms[own].clone()
    for half, side in ((rows, along > 0), (parents, along < 0)):
        slope = per_feature(along * values * side) / per_feature(values.square() * side).clamp_min(
            torch.finfo(values.dtype).tiny
        )
        new = normalize_(old + slope[own, None] * direction[own])
        # what a half takes from its parent, which another process may have
        tables = (atoms, new), (weight, norms * new)
        tables += tuple((tensor, tensor[own]) for tensor in (bias, *autoencoder.state.values()))
        of_half, places = strategy.located(half)
        for tensor, of_parents in tables:
            tensor[places] = strategy.spread(of_parents, mine, n_splits)[of_half]
        optimizer.reset_rows(places)
    return left


def draw_rows_of_atoms(n_components, n_features, strategy, generator):
    """Normal random numbers for each atom of this process: (n, n_features), float32.

    Those of a block of `DRAWN_TOGETHER` atoms follow from one number of the generator and the
    number of the block, so that no process needs those of all atoms.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
    start = strategy.start
    stop = start + len(strategy.own(range(n_components)))
    drawn = torch.empty(stop - start, n_features, dtype=torch.float32, device="cpu")
    for block in range(start // DRAWN_TOGETHER, math.ceil(stop / DRAWN_TOGETHER)):
        first = block * DRAWN_TOGETHER
        last = min(first + DRAWN_TOGETHER, n_components)
        of_block = torch.Generator(device="cpu").manual_seed(seed + block)
        rows = torch.randn(
            last - first, n_features, generator=of_block, dtype=torch.float32, device="cpu"
        )
        low, high = max(first, start), min(last, stop)
        drawn[low - start : high - start] = rows[low - first : high - first]
    return drawn
