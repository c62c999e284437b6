"""Tiny randomly initialised transformers with tokenizers trained on the spot; no downloads."""

import pytest
from sklearn.utils import estimator_checks

from skdict.datasets import load_one_layer_transformer

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
torch = pytest.importorskip("torch")

TEXTS = [
    "def area(radius):\n    return 3.14 * radius ** 2",
    "import numpy as np",
    "x",
    "for name, value in sorted(items):  # sortiert, auf Größe 😀 geprüft",
    "class Shape:\n    '''A shape.'''\n\n    def area(self):\n        raise NotImplementedError",
    "return",
    "import numpy as np",
]


def wordpiece_tokenizer():
    """BERT's kind: lower-cased word pieces between [CLS] and [SEP], unknown words possible."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(TEXTS[:3] + TEXTS[4:], trainer)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def byte_level_tokenizer():
    """Llama's and GPT-2's kind: byte-level pairs behind <s>, without a padding token."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>"
    )


def save_tiny_bert(folder):
    """Save a two-layer masked language model with its tokenizer; return the folder."""
    tokenizer = wordpiece_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    return _save(transformers.BertForMaskedLM, config, tokenizer, folder)


def save_tiny_llama(folder):
    """Save a two-layer causal language model with its tokenizer; return the folder."""
    tokenizer = byte_level_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=24,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.1,
    )
    return _save(transformers.LlamaForCausalLM, config, tokenizer, folder)


def _save(model_class, config, tokenizer, folder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def texts():
    return TEXTS


@pytest.fixture(scope="session")
def save_bert():
    """Function of a folder, for tests that need one of their own."""
    return save_tiny_bert


@pytest.fixture(scope="session")
def save_llama():
    return save_tiny_llama


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def one_layer_folder():
    """The model that comes with the package; its padding token is its <|endoftext|>."""
    return load_one_layer_transformer().path


@pytest.fixture
def bert(bert_folder):
    """A ready model and tokenizer."""
    model = transformers.BertForMaskedLM.from_pretrained(bert_folder)
    return model, transformers.AutoTokenizer.from_pretrained(bert_folder)


@pytest.fixture(
    params=[
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_valid_tag_types,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_mixin_order,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
        estimator_checks.check_parameters_default_constructible,
    ],
    ids=lambda check: check.__name__,
)
def sklearn_check(request):
    """The checks of sklearn that need no X, for estimators of texts: the others make their own."""
    return request.param
