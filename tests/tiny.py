"""Tiny random models, made offline: shared by the tests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = (
    "the quick brown fox jumps over a lazy dog and then it sleeps in the warm sun of the long afternoon while "
    "we review films, books and music: good, bad, fine, awful! def add(a, b): return a + b\n\tif x == 12345: pass\n"
)

RECIPE = """\
name: {name}
teacher: {{model: {model}}}
data:
  source: {rows}
  template: plain
  prompt: "Review: {{{{ text }}}}\\nSentiment:"
  response: "{{{{ label }}}}"
  choices: [" bad", " good"]
  max_length: 64
  splits: {{train: 24, validation: 8, calibration: 4, test: 12}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: logits, top_k: 16}}
student: {{init: {{from: teacher, layers: 1}}, lora: {{rank: 4, alpha: 8}}}}
distill: {{loss: {{ce: 0.5, forward_kl: 0.5}}, learning_rate: 1e-2, batch_size: 8}}
export: [onnx:int8, gguf:Q8_0]
verify: {{rows: 12}}
bench: {{workloads: [task, chat-8-3], rounds: 1, requests: 1}}
"""


@cache
def corpus() -> tuple[str, ...]:
    """Lines that a tokenizer is trained on: English, code, digits, other scripts."""
    return tuple(f"{WORDS} {n} {n * 37} naïve café 你好世界 🙂 {'  ' * (n % 4)}end.\n" for n in range(200))


def tiny_tokenizer(directory: Path, *, vocabulary: int = 400) -> None:
    """Save a byte-level BPE tokenizer (SmolLM2's pre-tokenizer, bos 1, eos and pad 2, a chat template)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)


def tiny_llama(
    directory: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    vocabulary: int = 400,
    tied: bool = True,
    seed: int = 0,
    scale: float = 0.1,
) -> PreTrainedModel:
    """Save a random Llama with its tokenizer as a Hugging Face directory.

    Four heads of hidden/4 and two key-value heads; feed-forward 2 x hidden. `scale` is the initial deviation
    of the weights: large enough for distributions that are not flat.

    Returns:
        the model (float32, eval mode).
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny_tokenizer(directory, vocabulary=vocabulary)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=scale,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(directory)
    return model


def tiny_family(
    directory: Path, model_type: str, *, seed: int = 0, tokenizer: bool = True, **changes: object
) -> PreTrainedModel:
    """Save a random two-layer model of another family (qwen2, qwen3, gemma3_text, ...) with the same tokenizer.

    Args:
        changes: fields of the configuration that replace the defaults.
        tokenizer: also save the tokenizer; False where the caller saves its own.

    Returns:
        the model (float32, eval mode). Norms and biases are random too, so that a lost one shows.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if tokenizer:
        tiny_tokenizer(directory)
    fields: dict[str, object] = {
        "vocab_size": 400,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    if model_type.startswith("gemma"):
        fields |= {"query_pre_attn_scalar": 16, "sliding_window": 16}
    config = AutoConfig.for_model(model_type, **(fields | changes))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight += 0.2 * torch.randn_like(weight) * (0.2 if "norm" not in name else 1.0)
    model.save_pretrained(directory)
    return model


def tiny_wordpiece(directory: Path, *, vocabulary: int = 400) -> None:
    """Save a WordPiece tokenizer trained on the corpus, as BERT's (lower case, [CLS] text [SEP])."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(corpus(), vocab_size=vocabulary, min_frequency=1, show_progress=False)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "raw.json"
    trained.save(str(path))
    BertTokenizerFast(tokenizer_file=str(path), do_lower_case=True).save_pretrained(directory)
    path.unlink()


def tiny_bert(
    directory: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    labels: tuple[str, ...] = ("negative", "positive", "neutral"),
    masked: bool = False,
    seed: int = 0,
    scale: float = 0.1,
) -> PreTrainedModel:
    """Save a random BERT with a sequence-classification (or masked-language) head and its WordPiece tokenizer.

    Returns:
        the model (float32, eval mode). Norms and biases are random too, so that a lost one shows.
    """
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertForSequenceClassification

    tiny_wordpiece(directory)
    config = BertConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(directory)),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=scale,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    torch.manual_seed(seed)
    model = (BertForMaskedLM if masked else BertForSequenceClassification)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(directory)
    return model


def tiny_embedder(directory: Path, *, pooling: str = "mean", normalize: bool = True, layers: int = 2) -> None:
    """Save a random BERT whose directory says how it pools."""
    from distill2edge.models.embedders import make_embedder
    from distill2edge.models.pooling import Pooling

    tiny_bert(directory, layers=layers, masked=True)
    make_embedder(directory, Pooling(pooling, normalize))  # type: ignore[arg-type]


def tiny_recipe(root: Path, name: str = "tiny") -> Path:
    """Write a teacher of two layers, rows, and a recipe that takes them the whole way; returns the recipe's path."""
    tiny_llama(root / "teacher", layers=2)
    (root / "teacher" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    rows = [{"text": f"film {n} the {n * 37} dog", "label": (" bad", " good")[n % 2]} for n in range(60)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = root / f"{name}.yaml"
    path.write_text(RECIPE.format(name=name, model=root / "teacher", rows=root / "rows.jsonl"))
    return path


def tiny_t5(
    directory: Path, *, layers: int = 2, hidden: int = 64, seed: int = 0, scale: float = 1.5
) -> PreTrainedModel:
    """Save a random T5 (gated, tied, no dropout) with a byte-level BPE that ends a source with its end token.

    `scale`: initialisation factor; large enough for distributions that are not flat.

    Returns:
        the model (float32, eval mode).
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from distill2edge.intake.random_models import train_tokenizer

    train_tokenizer(corpus(), 400, directory, ends_source=True)
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=400,
        d_model=hidden,
        d_kv=hidden // 4,
        d_ff=2 * hidden,
        num_layers=layers,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        initializer_factor=scale,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = T5ForConditionalGeneration(config).eval()
    model.save_pretrained(directory)
    return model


TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}"
    "<tools>\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools><|im_end|>\n"
    "{% elif messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant\n{{ m.content }}"
    '{% for call in m.tool_calls or [] %}<tool_call>\n{"name": "{{ call.function.name }}", "arguments": '
    "{{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% elif m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML with tools, as Hermes and Qwen write them."""
