"""Costs as text, for tables and for the end of a run."""

from __future__ import annotations

from benchmark.records.costs import Cost, EncodingCost


def passes(cost: EncodingCost) -> str:
    """Such as "14 pictures + 1 text"."""
    pictures, texts = cost.picture_passes, cost.text_passes
    told = [f"{pictures} picture{'s' if pictures > 1 else ''}"] * bool(pictures)
    return " + ".join([*told, *[f"{texts} text"] * bool(texts)])


def gigaflops(flops: int) -> str:
    return f"{flops / 1e9:.3g}"


def cost_line(cost: Cost) -> str:
    """All that is counted, in one sentence without a full stop."""
    parts = [
        f"{cost.trainable_parameters:,} trainable parameters",
        f"per gallery picture: encoder passes {passes(cost.gallery)}, {gigaflops(cost.gallery.flops)} GFLOPs, "
        f"{cost.stored_bytes:,} bytes stored",
        f"per query: encoder passes {passes(cost.query)}, {gigaflops(cost.query.flops)} GFLOPs, "
        f"{cost.pair_flops:,} FLOPs for each picture scored",
    ]
    return "; ".join(parts)
