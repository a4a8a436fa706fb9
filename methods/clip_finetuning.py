"""CLIP4Cir's stage 1 as a method of its own: the sum of both features of a CLIP that was fine-tuned for it.

The stage is `networks/clip_finetuning.py`. `clip4cir_sum` evaluates what it leaves as it is, which
CLIP4Cir's evaluation script offers too ("element-wise sum").

Known flaw of the adapted recipe on Fashion200k: pictures that share the target's caption are right
answers, and count as negatives where they meet in a batch.
"""

from __future__ import annotations

from benchmark.method import Specification

from .networks.clip_finetuning import FINETUNING

METHOD = Specification(stages=lambda settings, initialisation: (FINETUNING,))
