"""Logits across tokenizers: is a student of another tokenizer better for its teacher's logits than on text alone?

python benchmarks/align.py              # makes the student, trains what is not in the store, scores, writes
python benchmarks/align.py --seeds 1    # puts one seed into the store and prints its scores, writes nothing

The teacher is SmolLM2-135M-Instruct, of 49,152 tokens. The student is its lowest layers with a byte-level BPE of 8,192
tokens, trained on tweets, product reviews and editorials; each of its embeddings is the mean of those of the teacher's
tokens that spell it. Both read film reviews as plain text. The recipe's own control is the other arm: cross-entropy on
the same rows in the same steps. Figure: nats per byte of held-out reviews, beyond the first token. Every seed has
splits of its own, so the paired interval pools the seeds' held-out rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, write_result

import distill2edge as d2e
from distill2edge.data.encode import encode_rows
from distill2edge.data.spelling import SPECIAL, spelling_of
from distill2edge.data.split_files import read_rows
from distill2edge.intake import bundled
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.loading import load_model
from distill2edge.util.progress import SilentProgress

TEACHER = "bundled:smollm2-135m-instruct"
SEEDS = (0, 1, 2)
LAYERS, TOKENS = 4, 8192
OTHER_TEXTS = ("amazon-sentiment", "nyt-sentiment", "tweet-sentiment")
RECIPE = """\
name: align
teacher: {{model: {teacher}}}
data:
  source: bundled:movie-sentiment
  template: text
  response: "{{{{ text }}}}"
  max_length: 64
  splits: {{train: 600, validation: 32, calibration: 0, test: 300}}
signal: {{kind: logits, top_k: 64, temperature: 1.0, align: vocabulary}}
student: {{init: {{model: {student}}}, lora: null}}
distill: {{loss: {{ce: 0.5, forward_kl: 0.5}}, epochs: 2, learning_rate: 5e-4, batch_size: 16, control: true}}
export: [gguf:Q8_0]
"""


def make_student(out: Path) -> None:
    """The teacher's lowest layers, and embeddings for a vocabulary of its own."""
    import torch

    from distill2edge.intake.obtain import fetch_model
    from distill2edge.intake.random_models import train_tokenizer
    from distill2edge.student.layers import keep_layers

    texts = [str(row["text"]) for name in OTHER_TEXTS for row in bundled.rows(name, SilentProgress())]
    train_tokenizer(texts, TOKENS, out, ends_source=False)
    own = load_tokenizer(out)
    with tempfile.TemporaryDirectory() as place:
        fetch_model(TEACHER, None, Path(place), SilentProgress(), where="teacher.model")
        theirs, model = load_tokenizer(Path(place) / "model"), load_model(Path(place) / "model", dtype=torch.float32)
    keep_layers(model, list(range(LAYERS)))
    old = model.get_input_embeddings().weight.detach()
    new = old.mean(0).repeat(len(own), 1)
    for index, raw in enumerate(spelling_of(own, "text").tokens):
        text = "" if raw.startswith(SPECIAL) else raw.decode("utf-8", "ignore")
        if ids := theirs(text, add_special_tokens=False)["input_ids"]:
            new[index] = old[ids].mean(0)
    new[own.eos_token_id] = old[theirs.eos_token_id]
    model.resize_token_embeddings(len(own), mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(new)
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = None, own.eos_token_id, own.pad_token_id
    model.save_pretrained(out)


def nats_per_byte(directory: Path, rows: list[Any]) -> list[float]:
    """Negative log-likelihood of each row's text, its first token and its end left out, over the bytes of that."""
    import torch

    model, tokenizer = load_model(directory, dtype=torch.float32).eval(), load_tokenizer(directory)
    spelling, found = spelling_of(tokenizer, "text"), []
    for example in encode_rows(rows, tokenizer, "text", None, 10_000):
        ids = [index for index in example.ids if not spelling.tokens[index].startswith(SPECIAL)]
        with torch.no_grad():
            log_q = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].float(), -1)
        nats = -float(log_q.gather(-1, torch.tensor(ids[1:])[:, None]).sum())
        found.append(nats / len(spelling.text(ids[1:])))
    return found


def main() -> None:
    """Make the student, train, score, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "align", help="of the student and the recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of one alone nothing is written")
    options = parser.parse_args()
    student, recipe = options.work / "student", options.work / "align.yaml"
    if not (student / "model.safetensors").is_file():
        make_student(student)
    recipe.write_text(RECIPE.format(teacher=TEACHER, student=json.dumps(str(student.resolve()))))
    scores: dict[str, list[list[float]]] = {}
    signals: list[dict[str, Any]] = []
    for seed in options.seeds:
        run = d2e.run(recipe, [f"seed={seed}"], upto="merge", store=options.store)
        rows = read_rows(run.of("data")["data"].path, "test")
        signals.append(dict(run.of("signal")["signal"].facts))
        directories = {
            "teacher": run.of("teacher")["teacher"].path / "model",
            "untrained student": run.of("student")["student"].path / "model",
            "text alone": run.of("merge")["merge control"].path / "model",
            "text and logits": run.of("merge")["merge"].path / "model",
        }
        for name, directory in directories.items():
            scores.setdefault(name, []).append(nats_per_byte(directory, rows))
            print(f"seed {seed}, {name}: {statistics.fmean(scores[name][-1]):.4f} nats per byte", flush=True)
    if len(options.seeds) == 1:
        return
    flat = {name: [[value for values in seeds for value in values]] for name, seeds in scores.items()}
    gain = paired(flat["text alone"], flat["text and logits"])
    means = {name: [statistics.fmean(values) for values in seeds] for name, seeds in scores.items()}
    kept = ("matched_share", "mass_mapped", "mass_on_shared_tokens", "tokens_shared", "tokens_begun")
    write_result(
        "align",
        "python benchmarks/align.py",
        description=f"film reviews by {LAYERS} layers with {TOKENS} tokens of its own, taught by SmolLM2-135M-Instruct "
        f"across tokenizers; {len(options.seeds)} seeds, {len(flat['teacher'][0])} held-out rows",
        bars=[
            bar("text alone - text and aligned logits, nats per byte", gain, ">", 0.0),
            bar(
                "the same, of the seed that gains least",
                min(a - b for a, b in zip(means["text alone"], means["text and logits"], strict=True)),
                ">",
                0.0,
            ),
        ],
        samples=scores,
        metrics={"nats_per_byte": means, "signal": [{name: each[name] for name in kept} for each in signals]},
        seeds=list(options.seeds),
    )


if __name__ == "__main__":
    main()
