"""Critics: the strong model writes about each item, a judge reads it, and what helps the judge is learnt.

The published critic baseline trains a critic by GRPO against a judge. This is not that algorithm but best-of-n
supervised fine-tuning (STaR, arXiv 2203.14465; RAFT, arXiv 2304.06767): of n critiques the one under which an
out-of-fold judge gives the weak label the most probability is kept, and the critic is fine-tuned on the kept ones. A
run has no labelled split, so the judge learns from weak labels, cross-fitted so that no judge has seen the items that
it judges. Prompts are asked in the model's chat frame where its format has one, and cut to its length.

Measured at the size of the generated domains only, whose models write no arguments; never at the published size (4B).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gpu_pool.weak_to_strong.blocks.steps import Stepper
from gpu_pool.weak_to_strong.blocks.targets import hard
from gpu_pool.weak_to_strong.errors import TrainingError
from gpu_pool.weak_to_strong.generation import Engine, bulk_generator
from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel, softmax
from gpu_pool.weak_to_strong.models.batches import split
from gpu_pool.weak_to_strong.run import MethodRun
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.trainer import Job, TrainConfig, finetune_many
from gpu_pool.weak_to_strong.training.batches import automatic_budget, epoch

ASK = "\nCritique:"


@dataclass(frozen=True, slots=True)
class CriticConfig:
    """`samples` critiques an item of at most `tokens` tokens at `temperature`; epochs of critic and judge.

    The defaults suit the generated domains, whose models write no arguments; a real critic writes longer at 1.0, and
    `engine` "vllm" is for it.
    """

    samples: int = 2
    tokens: int = 6
    temperature: float = 0.5
    epochs: int = 1
    judge_epochs: int = 4
    rounds: int = 1
    engine: Engine = "transformers"


def critique_labels(run: MethodRun, config: CriticConfig | None = None) -> FloatArray:
    """P(label 1) of each item (n,): the judges' mean over critiques of the trained critic.

    Raises ModelError for a model that cannot write, TrainingError for a protocol that trains no weight that writes.
    """
    config = config or CriticConfig()
    labels = hard(run.weak)
    _check_trainable(run.protocol)
    critic = run.base.copy(run.protocol.trainable)
    critiques = write_critiques(run, critic, config, run.seed)
    verdicts = judge(run, critiques, labels, config)
    for number in range(config.rounds):
        best = best_of(verdicts, labels)
        kept = [critiques[i][int(k)] for i, k in enumerate(best)]
        train_critic(run, critic, kept, config)
        critiques = write_critiques(run, critic, config, run.seed + number + 1)
        verdicts = judge(run, critiques, labels, config)
        right = np.where(labels[:, None] == 1, verdicts, 1 - verdicts)
        run.log("critic", round=number, judge_agrees=float((right > 0.5).mean()))
    return np.asarray(verdicts.mean(axis=1), dtype=np.float32)


def critique_prompts(run: MethodRun, tokens: int) -> TokenTable:
    """The text of each item as token ids, ending where its critique of at most `tokens` tokens begins.

    What is too long for both is cut or refused as the model's texts are; how many were cut is logged.
    """
    prompts = run.base.tokenize(run.items, ask=ASK, room=tokens)
    if prompts.truncated:
        run.log("critique prompts were cut", cut=prompts.truncated, of=len(prompts))
    return prompts


def write_critiques(run: MethodRun, critic: LabelModel, config: CriticConfig, seed: int) -> list[list[str]]:
    """`samples` critiques of each item."""
    run.check_deadline()
    with bulk_generator(critic, config.engine) as writer:
        prompts = [row.tolist() for row in critique_prompts(run, config.tokens)]
        return writer.generate(prompts, config.samples, config.tokens, config.temperature, seed)


def with_critiques(items: ItemSet, critiques: Sequence[str]) -> ItemSet:
    """The items with a critique behind the last answer: what a judge reads."""
    if items.kind == "pair":
        return replace(items, seconds=_behind(items.seconds, critiques))
    return replace(items, firsts=_behind(items.firsts, critiques))


def judge(run: MethodRun, critiques: list[list[str]], labels: FloatArray, config: CriticConfig) -> FloatArray:
    """P(label 1) by a judge that has seen neither the item nor its critiques, (n, samples).

    Two folds; a judge is a strong model fine-tuned on items with one critique each towards `labels` (n,).
    """
    fold = np.random.default_rng(run.seed).permutation(len(labels)) % 2
    texts = [run.base.tokenize(with_critiques(run.items, column)) for column in zip(*critiques, strict=True)]
    pick = np.random.default_rng(run.seed + 1).integers(len(texts), size=len(labels))
    mixed = [texts[int(k)][i] for i, k in enumerate(pick)]
    if any(table.truncated for table in texts):
        run.log("texts with critiques were cut", cut=sum(table.truncated for table in texts), of=len(texts) * len(fold))
    out = np.zeros((len(labels), len(texts)), dtype=np.float32)
    for number in range(2):
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        chosen = run.config(epochs=config.judge_epochs)
        model = run.base.copy(chosen.trainable)
        finetune_many([Job(model, [mixed[int(i)] for i in inside], labels[inside], chosen)], deadline=run.deadline)
        for column, tokens in enumerate(texts):
            out[outside, column] = softmax(model.logits(tokens.take(outside)))[:, 1]
    return out


def best_of(verdicts: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Index (n,) of the critique under which the judge gives the label the most probability; verdicts (n, samples)."""
    given = np.asarray(verdicts, dtype=np.float64)
    right = np.where(np.asarray(labels)[:, None] == 1, given, 1 - given)
    return np.asarray(right.argmax(axis=1), dtype=np.int64)


def train_critic(run: MethodRun, critic: LabelModel, critiques: Sequence[str], config: CriticConfig) -> float:
    """Fine-tune `critic` in place to write `critiques` (n,), one for each item; gives the mean loss (nats a token)."""
    plan: TrainConfig = run.config(epochs=config.epochs)
    _check_trainable(plan)
    heads = critique_prompts(run, config.tokens)
    backend = critic.tokenizer.backend_tokenizer
    tails = [row.ids for row in backend.encode_batch(list(critiques), add_special_tokens=False)]
    useful = [i for i, tail in enumerate(tails) if tail]
    if not useful:
        return math.nan
    # Read again, a critique can have more tokens than it was written with: what the context cannot hold is left out.
    rows = [np.array([*heads[i], *tails[i]][: critic.max_length], dtype=np.int64) for i in useful]
    starts = [len(heads[i]) for i in useful]
    rng, lengths = np.random.default_rng(run.seed), np.array([len(row) for row in rows])
    budget = plan.token_budget or automatic_budget(critic.width, critic.device)
    values = []
    with Stepper(critic, plan, plan.epochs * math.ceil(len(rows) / plan.batch_size)) as stepper:
        for number in range(plan.epochs):
            for index in epoch(lengths, plan.batch_size, rng, number):
                run.check_deadline()
                parts = split(index, lengths, budget)
                written = sum(len(rows[i]) - starts[i] for i in index)
                values.append(
                    stepper.step(
                        text_losses(critic, [rows[i] for i in part], [starts[i] for i in part]).sum() / written
                        for part in (parts if len(parts) > 1 else [index])
                    )
                )
    return float(np.mean(values))


def text_loss(model: LabelModel, rows: Sequence[npt.NDArray[np.int64]], starts: Sequence[int]) -> torch.Tensor:
    """Mean next-token loss over the tokens of each row (t,) from position `starts` on; what is before is given."""
    return text_losses(model, rows, starts).mean()


def text_losses(model: LabelModel, rows: Sequence[npt.NDArray[np.int64]], starts: Sequence[int]) -> torch.Tensor:
    """The losses (m,) that `text_loss` is the mean of; the vocabulary's logits in float32 are (m, vocabulary)."""
    device = next(model.parameters()).device
    ids = nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True).to(device)
    position = torch.arange(ids.shape[1], device=device)[None, 1:]
    begin = torch.tensor(list(starts), device=device)[:, None]
    end = torch.tensor([len(row) for row in rows], device=device)[:, None]
    counted = (position >= begin) & (position < end)
    asked = counted.any(dim=0).nonzero()[:, 0]  # the positions behind which some row is written
    counted, following = counted[:, asked], ids[:, 1:][:, asked]
    with model.precision():
        logits = _logits_at(model, ids, asked)[counted].float()
    return -torch.log_softmax(logits, -1).gather(-1, following[counted][:, None])[:, 0]


def _logits_at(model: LabelModel, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Logits (b, k, vocabulary) at `positions` (k,) alone, where the model's forward can be asked for them."""
    if "logits_to_keep" in inspect.signature(model.lm.forward).parameters:
        kept: torch.Tensor = model.lm(input_ids=ids, logits_to_keep=positions).logits
        return kept
    every: torch.Tensor = model.lm(input_ids=ids).logits
    return every[:, positions]


def _check_trainable(config: TrainConfig) -> None:
    if config.trainable == "head":
        raise TrainingError("trainable 'head' moves no weight that writes: a critic needs full, top:k or lora:r")


def _behind(texts: Sequence[str], critiques: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{text}{ASK} {critique}" for text, critique in zip(texts, critiques, strict=True))
