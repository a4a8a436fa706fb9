"""Texts that are longer than what a backbone reads of one: it cuts them, and every number of theirs says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from benchmark.backbone import Backbone, TextContext
from benchmark.dataset import Dataset, Task
from benchmark.text_rules import TextRule, sentences_of


def training_strings(dataset: Dataset, rule: TextRule, pair_sampling: str = "") -> tuple[str, ...]:
    """What training reads: of every triplet of the first epoch the strings that evaluation would ask it with."""
    captions = dataset.train_triplets(0, 0, pair_sampling).captions
    return tuple(text for entry in captions for text in rule.queries(entry))


def with_cut_texts(tasks: Iterable[Task], backbone: Backbone | None) -> tuple[Task, ...]:
    """Tasks that know and note how many of their queries' texts the backbone cuts."""
    context = backbone.text_context if backbone is not None else None
    if context is None:
        return tuple(tasks)
    told = []
    for task in tasks:
        cut = context.cut(sentence for text in task.queries.texts for sentence in sentences_of(text))
        notes = (*task.notes, format_cut_texts(cut, len(task.queries), context)) if cut else task.notes
        told.append(replace(task, notes=notes, texts_cut=cut))
    return tuple(told)


def format_long_texts(tasks: Iterable[Task], trained: Sequence[str], backbone: Backbone | None) -> Iterator[str]:
    """A line for a run's training and one for its queries, where some of their texts are cut."""
    context = backbone.text_context if backbone is not None else None
    if context is None:
        return
    asked = [sentence for task in tasks for text in task.queries.texts for sentence in sentences_of(text)]
    for what, texts in (("training", trained), ("evaluation", asked)):
        if cut := context.cut(texts):
            yield f"{what}: {format_cut_texts(cut, len(texts), context)}"


def format_cut_texts(cut: int, texts: int, context: TextContext) -> str:
    read = f"the {context.length} tokens that {context.name} reads"
    return f"{cut:,} of {texts:,} texts are longer than {read}, and are cut"
