"""Train the one-layer transformer that ships in ``skdict/datasets/data``.

The model of "Towards Monosemanticity" (Bricken et al., 2023): one causal layer, 128
dimensions, 4 heads, 512 ReLU neurons, untied embeddings, context 256, on a byte-level BPE of
4,096 entries. The data are the standard library's source and the language reference
(`skdict.datasets.load_python_corpus`), split by file.

    python benchmarks/train_one_layer_transformer.py --output skdict/datasets/data/one_layer

prints the held-out loss as it goes and writes a Hugging Face folder in half precision.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from skdict.datasets import load_python_corpus

CONTEXT, VOCABULARY, BOS = 256, 4096, "<|endoftext|>"


def train_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos_id)]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=BOS,
        model_max_length=CONTEXT,
    )


def token_stream(tokenizer, texts):
    """All documents in one row, each opened by the BOS token."""
    encodings = tokenizer.backend_tokenizer.encode_batch(texts)
    return torch.cat([torch.tensor(encoding.ids) for encoding in encodings])


def windows(stream, offset, bos_id):
    """Cut the stream into (n_windows, CONTEXT) rows, the BOS token at position 0 of each."""
    body = CONTEXT - 1
    n_windows = (len(stream) - offset) // body
    rows = stream[offset : offset + n_windows * body].view(n_windows, body)
    return torch.cat([torch.full((n_windows, 1), bos_id), rows], dim=1)


@torch.no_grad()
def held_out_loss(model, rows):
    model.eval()
    losses = [model(input_ids=batch, labels=batch).loss * len(batch) for batch in rows.split(32)]
    model.train()
    return float(sum(losses) / len(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16, help="windows of 256 tokens")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    train_texts = load_python_corpus(subset="train").data
    tokenizer = train_tokenizer(train_texts)
    bos_id = tokenizer.bos_token_id
    stream = token_stream(tokenizer, train_texts)
    test_rows = windows(token_stream(tokenizer, load_python_corpus(subset="test").data), 0, bos_id)
    n_epoch_tokens, n_test_tokens = len(stream), test_rows.numel()
    print(f"{n_epoch_tokens:,} training tokens, {n_test_tokens:,} held-out", flush=True)

    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=128,
        n_layer=1,
        n_head=4,
        n_inner=512,
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=bos_id,
        eos_token_id=bos_id,
        pad_token_id=bos_id,
    )
    model = GPT2LMHeadModel(config)
    decay = [p for p in model.parameters() if p.ndim >= 2]
    no_decay = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": no_decay, "weight_decay": 0.0}],
        lr=args.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    n_steps = args.epochs * (len(stream) // ((CONTEXT - 1) * args.batch_size))
    step, history, start = 0, [], time.perf_counter()
    for epoch in range(args.epochs):
        offset = int(torch.randint(CONTEXT - 1, (1,), generator=generator))
        rows = windows(stream, offset, bos_id)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        for batch in rows.split(args.batch_size):
            progress = min(step / n_steps, 1.0)
            warmup = min(1.0, (step + 1) / 200)
            factor = warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * factor
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
        history.append(held_out_loss(model, test_rows[:: max(1, len(test_rows) // 256)]))
        rate = step * args.batch_size * CONTEXT / (time.perf_counter() - start)
        print(
            f"epoch {epoch + 1:2d}  step {step:6d}  train {loss.item():.4f}  "
            f"held-out {history[-1]:.4f}  {rate:,.0f} tokens/s",
            flush=True,
        )

    model = model.half().float().eval()  # what is stored is what is measured
    final = held_out_loss(model, test_rows)
    print(
        f"final held-out loss {final:.4f} nats/token in half precision, {n_test_tokens:,} tokens"
    )
    args.output.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    record = {
        "held_out_loss": final,
        "held_out_loss_by_epoch": history,
        "n_training_tokens": n_epoch_tokens,
        "n_held_out_tokens": n_test_tokens,
        "epochs": args.epochs,
        "seed": args.seed,
    }
    (args.output / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
