"""Training steps of skdict and of other libraries, on batches that the caller gives."""

import itertools
import tempfile

import torch

from skdict._core.data.source import Source
from skdict._core.data.standardised import Standardised
from skdict._core.solvers.autoencoder import AutoencoderSolver, initial_atoms


def skdict(x, architecture, n_components):
    """A `Training` as `fit` starts it on x (n_samples, n_features), centred and scaled."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.zeros(x.shape[1], device=x.device)
    data = Standardised(Source(x, x.device), mean, 1.0)
    atoms = initial_atoms(data, n_components, generator)
    return AutoencoderSolver.from_atoms(
        atoms, architecture, data, generator, fit_intercept=True
    ).learner


def saelens(
    architecture,
    n_features,
    n_components,
    *,
    n_steps,
    batch_size,
    learning_rate=1e-3,
    l1_coefficient=5.0,
    l0_coefficient=1.0,
    jumprelu_threshold=0.01,
    k=32,
    autocast=False,
    device="cpu",
):
    """A training SAE of SAELens and a function that takes one step on a batch.

    Their loss is ‖x - x̂‖² + λ‖z‖₁, twice skdict's objective at λ = 2 alpha. Warm-ups and decay
    are those of their tutorials: the coefficient over a twentieth, the decay over a fifth. The
    bandwidth of "jumprelu" is the initial threshold, but no less than their default of 0.05.
    """
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    name, parameters = {
        "standard": (
            "Standard",
            {"l1_coefficient": l1_coefficient, "l1_warm_up_steps": n_steps // 20},
        ),
        "gated": ("Gated", {"l1_coefficient": l1_coefficient, "l1_warm_up_steps": n_steps // 20}),
        "jumprelu": (
            "JumpReLU",
            {
                "l0_coefficient": l0_coefficient,
                "l0_warm_up_steps": n_steps // 20,
                "jumprelu_init_threshold": jumprelu_threshold,
                "jumprelu_bandwidth": max(jumprelu_threshold, 0.05),
            },
        ),
        "topk": ("TopK", {"k": k}),
        "batchtopk": ("BatchTopK", {"k": k}),
        "matryoshka": (
            "MatryoshkaBatchTopK",
            {"k": k, "matryoshka_widths": [n_components // 16, n_components // 4, n_components]},
        ),
    }[architecture]
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(
        d_in=n_features, d_sae=n_components, dtype="float32", device=device, **parameters
    )
    torch.manual_seed(0)  # their initialisation draws from the global generator
    sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=n_steps * batch_size,
            train_batch_size_samples=batch_size,
            lr=learning_rate,
            lr_end=0.0,
            lr_warm_up_steps=n_steps // 20,
            lr_decay_steps=n_steps // 5,
            autocast=autocast,
            device=device,
        ),
        sae=sae,
        data_provider=iter(()),
    )

    def step(batch):
        # what `SAETrainer.fit` does with a batch, its logging left out
        trainer.step(batch)
        trainer.n_training_steps += 1

    return sae, step


def saelens_inference(sae):
    """Their trained SAE as they save it for inference: (x -> codes), atoms, intercept."""
    from sae_lens import SAE

    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        saved = SAE.load_from_disk(folder)
    return saved.encode, saved.W_dec.detach(), saved.b_dec.detach()


def sparsify(n_features, n_components, *, k, device="cpu"):
    """A function that takes one step of EleutherAI's sparsify, with its default optimiser.

    In bfloat16 autocast on a GPU, in float32 on the CPU, as it does by itself.
    """
    from schedulefree import ScheduleFreeWrapper
    from sparsify import SparseCoder, SparseCoderConfig
    from sparsify.sign_sgd import SignSGD

    torch.manual_seed(0)
    coder = SparseCoder(n_features, SparseCoderConfig(num_latents=n_components, k=k), device)
    learning_rate = 5e-3 / (n_components / 2**14) ** 0.5
    optimizer = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=learning_rate), momentum=0.95)
    optimizer.train()

    def step(batch):
        # what `Trainer.fit` does with a batch, its logging left out
        coder.set_decoder_norm_to_unit_norm()
        coder(batch).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


def dictionary_learning(n_features, n_components, *, n_steps, k, device="cpu"):
    """A function that takes one step of the TopKTrainer of dictionary_learning, in float32."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=n_steps,
        activation_dim=n_features,
        dict_size=n_components,
        k=k,
        layer=0,
        lm_name="",
        warmup_steps=n_steps // 20,
        seed=0,
        device=device,
    )
    counter = itertools.count(1)  # at 0 it looks for a geometric median first
    return lambda batch: trainer.update(next(counter), batch)
