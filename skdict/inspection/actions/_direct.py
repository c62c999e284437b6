"""The direct path from a layer to the logits: along the residual stream, past all that follows."""

from contextlib import ExitStack
from functools import partial

import numpy as np
import torch

from ..._core.language.evaluation import evaluation_mode
from ..._core.language.hooks import Hooks, way_to
from ..._core.language.next_token import output_embeddings
from ..._core.language.windows import TokenWindows, special_token_ids
from ._norms import linear_norms

N_PROBE = 6  # tokens at which the map is compared
N_COPIES = 64  # rows of the map from one pass


class NoDirectPath(ValueError):
    """What follows a layer has no fixed linear part up to the logits."""


def direct_map(language, texts=None):
    """The linear map from the layer's activation to what the unembedding is given.

    Parameters
    ----------
    language : Language

    texts : list of str, default=None
        The map is multiplied by the inverse scale of the norms that it goes through, averaged
        over the tokens of these texts. By default it is without scale.

    Returns
    -------
    map : ndarray of float64 of shape (n_features, n_hidden)
        Activations are multiplied by it from the left.

    Raises
    ------
    NoDirectPath
        If there is no such map, the same at each token.
    """
    head = output_embeddings(language.model)
    if head is None:
        raise NoDirectPath(
            f"{type(language.model).__name__} does not say by get_output_embeddings which module "
            "makes its logits, so that there is no direct path to them. path='total' needs none."
        )
    path = _Path(language, head)
    # tensors created in inference mode cannot be differentiated
    with torch.inference_mode(False), evaluation_mode(language.model):
        with path.cut(unit_scale=True):
            found = path.jacobian()
        if texts is None:
            return found
        with path.cut():
            return found * path.mean_scale(texts, found)


def has_direct_path(language):
    """Whether there is a direct map from the layer to the unembedding."""
    try:
        direct_map(language)
    except NoDirectPath:
        return False
    return True


class _Path:
    """Gradients of the unembedding's input along the residual stream.

    Parameters
    ----------
    language : Language
    head : torch.nn.Module
    """

    def __init__(self, language, head):
        self.language, self.head = language, head
        content = np.setdiff1d(
            np.arange(len(language.tokenizer)), special_token_ids(language.tokenizer)
        )
        self.ids = content[np.linspace(0, len(content) - 1, N_PROBE).astype(np.int64)]
        self.n_hidden = None

    def cut(self, **options):
        """Cut gradients through attention and MLPs of the blocks; norms are linear."""
        stack = ExitStack()
        stack.enter_context(torch.enable_grad())
        stack.enter_context(
            Hooks(
                [
                    partial(module.register_forward_hook, _detached)
                    for module in branches(self.language.model, [self.language.layer])
                ]
            )
        )
        stack.enter_context(linear_norms(self.language.model, **options))
        return stack

    def _gradient(self, forward, project):
        """Gradient of a function of the unembedding's input in the layer's activation."""
        leaves, given = [], []

        def leaf(activations):
            leaves.append(activations.detach().clone().requires_grad_())
            return leaves[0].clone()

        def keep(module, args):
            given.append(args[0])

        with Hooks([partial(self.head.register_forward_pre_hook, keep)]):
            self.language.site.run_replaced(leaf, forward)
        if not given or given[-1].shape[:2] != leaves[0].shape[:2]:
            self._refuse("the unembedding is not given a vector at each token")
        if not given[-1].requires_grad:
            self._refuse("nothing leads on from it to the logits")
        value = project(given[-1])
        (gradient,) = torch.autograd.grad(value, leaves, allow_unused=True)
        if gradient is None:
            self._refuse("nothing leads on from it to the logits")
        return gradient.double()

    def _refuse(self, reason):
        raise NoDirectPath(
            f"There is no direct path from layer={self.language.layer!r} of a "
            f"{type(self.language.model).__name__} to the logits: {reason}. path='total' gives "
            "the derivative along all paths, averaged over texts."
        )

    def _forward(self, n_copies=1):
        windows = TokenWindows(
            range(n_copies), [self.ids] * n_copies, [np.ones(len(self.ids), bool)] * n_copies
        )
        arguments, keywords = windows.arguments(self.language.network, list(range(n_copies)))
        return partial(self.language.network.run, arguments, keywords)

    def jacobian(self):
        """Derivative of the unembedding's input in the activation of the same token."""
        n_hidden, at = self.head.weight.shape[1], len(self.ids) // 2
        rows = []
        for start in range(0, n_hidden, N_COPIES):
            n = min(N_COPIES, n_hidden - start)
            copies = torch.arange(n, device="cpu")
            gradient = self._gradient(
                self._forward(n), lambda x, c=copies, s=start: x[c, at, s + c].sum()
            )
            rows.append(gradient[:, at].cpu().numpy())
        found = np.concatenate(rows).T
        generator = torch.Generator("cpu").manual_seed(0)
        self._projection = torch.randn(
            n_hidden, generator=generator, dtype=torch.float64, device="cpu"
        )
        gradient = self._gradient(self._forward(), lambda x: self._projected(x)[:, ::2].sum())
        gradient, expected = gradient[0].cpu().numpy(), found @ self._projection.numpy()
        tolerance = 1e-3 * np.linalg.norm(expected)
        if not tolerance > 0:
            self._refuse("nothing leads on from it to the logits")
        if np.linalg.norm(gradient[1::2], axis=1).max() > tolerance:
            self._refuse("tokens mix on the way")
        if np.linalg.norm(gradient[::2] - expected, axis=1).max() > tolerance:
            self._refuse("what follows it is not linear, or differs from token to token")
        return found

    def _projected(self, x):
        return x @ self._projection.to(x)

    def mean_scale(self, texts, jacobian):
        """Mean inverse scale of the norms on the way, over the tokens of texts."""
        along = jacobian @ self._projection.numpy()
        total, n_tokens = 0.0, 0
        for _, forward, _, kept in self.language.batches(self.language.windows(texts)):
            if not kept.any():
                continue
            gradient = self._gradient(forward, lambda x, kept=kept: self._projected(x)[kept].sum())
            gradient = gradient[kept].cpu().numpy()
            scale = gradient @ along / (along @ along)
            error = np.linalg.norm(gradient - scale[:, None] * along, axis=1)
            if (error > 1e-2 * np.linalg.norm(gradient, axis=1)).any():
                self._refuse("what follows it is not linear, or differs from token to token")
            total, n_tokens = total + scale.sum(), n_tokens + len(scale)
        if n_tokens == 0:
            raise ValueError("texts has only special tokens. Give longer texts.")
        return total / n_tokens


def branches(model, layers):
    """Modules of blocks with a matrix among their parameters, but for those around the layers.

    The blocks are the entries of the outermost `torch.nn.ModuleList`s.
    """
    ways = {id(module) for layer in layers for module in way_to(model, layer)}
    for block in _blocks(model):
        for child in block.children():
            has_matrix = any(weight.ndim > 1 for weight in child.parameters())
            if has_matrix and id(child) not in ways:
                yield child


def _blocks(module):
    """The entries of the outermost lists of modules."""
    for child in module.children():
        if isinstance(child, torch.nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


def _detached(module, args, output):
    """What a module returns, without its gradient."""
    if isinstance(output, torch.Tensor):
        return output.detach()
    if isinstance(output, tuple):
        return tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in output)
    return output
