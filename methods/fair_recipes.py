"""What all methods share in a fair comparison, as recipes of the stage "fair", which is every method's own.

See `benchmark/pipeline/fair.py` for what is fixed besides; a negative group of 0 is the whole batch. `--epochs`,
`--batch-size`, `--negative-group` and `--text-mode` change a condition for all methods of a comparison alike.
"""

from __future__ import annotations

from benchmark.declarations import Recipe

RECIPES = [
    Recipe(
        stage="fair", dataset="*", name="adapted",
        source=(
            "ours: one batch of SPIRIT's negative group (1,024), the 100 epochs to the minimum of SPIRIT's "
            "schedule (CLIP4Cir's stage 1 has as many), a cosine that ends at zero"
        ),
        settings={
            "epochs": 100, "batch_size": 1024, "negative_group": 0, "schedule": "cosine", "warmup": 0.0,
            "average_decay": 0.0, "precision": "fp32", "validate_every": 1,
        },
    ),
    Recipe(
        stage="fair", dataset="fashion200k", name="adapted",
        source=(
            "ours: one batch of SPIRIT's negative group (1,024), SPIRIT's 10 epochs of TIRG's drawing of pairs, "
            "a cosine that ends at zero"
        ),
        settings={
            "epochs": 10, "batch_size": 1024, "negative_group": 0, "schedule": "cosine", "warmup": 0.0,
            "average_decay": 0.0, "precision": "fp32", "validate_every": 1, "drawing": "one-per-image",
        },
    ),
    Recipe(
        stage="fair", dataset="*", name="from-scratch", start="random",
        source="ours, for the demo data: three rates in at most half a minute for each method on two cores",
        settings={
            "epochs": 3, "batch_size": 128, "negative_group": 0, "schedule": "cosine", "warmup": 0.0,
            "average_decay": 0.0, "precision": "fp32", "validate_every": 1,
        },
    ),
]  # fmt: skip
