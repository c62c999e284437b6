"""Training steps of skdict and of SAELens, on batches that the caller gives."""

import tempfile

import torch

from skdict.decomposition._autoencoder_fit import AutoencoderFit, initial_atoms
from skdict.utils._arrays import Rows


def skdict(x, architecture, n_components):
    """A `Training` as `fit` starts it on x (n_samples, n_features), centred and scaled."""
    generator = torch.Generator().manual_seed(0)
    rows, mean = Rows(x, x.device), torch.zeros(x.shape[1])
    atoms = initial_atoms(rows, mean, 1.0, n_components, generator)
    return AutoencoderFit.from_atoms(
        atoms, architecture, rows, mean, 1.0, generator, fit_intercept=True
    ).training


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
    k=32,
    autocast=False,
):
    """A training SAE of SAELens and a function that takes one step on a batch.

    Their loss is ‖x - x̂‖² + λ‖z‖₁, twice skdict's objective at λ = 2 alpha. Warm-ups and decay
    are those of their tutorials: the coefficient over a twentieth, the decay over a fifth.
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
            {"l0_coefficient": l0_coefficient, "l0_warm_up_steps": n_steps // 20},
        ),
        "topk": ("TopK", {"k": k}),
        "batchtopk": ("BatchTopK", {"k": k}),
        "matryoshka": (
            "MatryoshkaBatchTopK",
            {"k": k, "matryoshka_widths": [n_components // 16, n_components // 4, n_components]},
        ),
    }[architecture]
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(
        d_in=n_features, d_sae=n_components, dtype="float32", device="cpu", **parameters
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
