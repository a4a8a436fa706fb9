"""The averages of recalls that papers report, named by their own formula."""

from __future__ import annotations

import re

_AVERAGE = re.compile(r"mean\((.+)\)|\((.+)\)/2")


def components(metric: str) -> tuple[str, ...]:
    """The metrics that an average is the mean of, by its name: "(R@5+R_subset@1)/2", "mean(R@10,R@50)".

    Empty for a metric that is no average.
    """
    match = _AVERAGE.fullmatch(metric)
    return tuple(re.split(r"[,+]", match[1] or match[2])) if match else ()
