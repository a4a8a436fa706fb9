"""What a file of a shelf declares of itself, as literals.

The registry reads these with `ast`, without importing the file: `list` and `--help` answer at
once, since no method's networks are loaded for them. :class:`benchmark.dataset.DatasetInfo` is
the datasets' counterpart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Start = Literal["pretrained", "random"]
"""Where a method's networks start: weights trained before, or a draw by the run's seed."""


@dataclass(frozen=True)
class Asset:
    """A file from outside that methods need. It is looked for on disk, and never fetched by a run.

    ``file``: its name under `--assets-root`; ``megabytes``: of what is to be downloaded; ``source``:
    where. ``hub``: repository and file (``owner/name/file``) in Hugging Face's cache, "" for none;
    ``cache``: a folder below the user's home where another program keeps it. ``when``: which settings
    ask for it. ``optional``: a run does without it, and says so.
    """

    name: str
    summary: str
    file: str
    megabytes: int
    source: str
    licence: str
    hub: str = ""
    cache: str = ""
    when: str = ""
    optional: bool = False


@dataclass(frozen=True)
class MethodInfo:
    """One line of `list methods`, the citation, and what the method needs from outside.

    ``needs``: names of assets, of which settings choose; "clip" is the backbone's weights.
    ``outside_fair``: why the method has no honest adaptation to the encoder that a fair comparison
    gives to all; "" for one that takes part.
    """

    name: str
    title: str
    summary: str
    paper: str
    citation: str
    needs: tuple[str, ...] = ()
    outside_fair: str = ""


@dataclass(frozen=True)
class Recipe:
    """A named set of a stage's settings, keyed by stage, dataset and the start of the weights.

    ``dataset`` "*" serves every dataset without a recipe of its own. ``name``: "paper" where the
    paper has one, "adapted" where none has, "from-scratch" for random weights; others may stand
    beside them. ``source`` says where the numbers come from. ``method`` holds settings of the
    method itself.
    """

    stage: str
    dataset: str
    name: str
    source: str
    settings: dict[str, Any]
    method: dict[str, Any] = field(default_factory=dict)
    start: Start = "pretrained"


@dataclass(frozen=True)
class Variant:
    """A named configuration of a method: what `--variant NAME` stands for.

    ``settings``: as `--set` takes them ("method.encoder", "combiner.epochs"); {} names the method as
    it is by default. ``title`` stands in brackets behind the method's in every table, so that no row
    of a variant reads like the method itself. ``source``: where the configuration comes from.
    ``ablation``: the block of the method's ablation table that it belongs to, "" for a version in
    its own right; ``without``: the parts that the ablation takes away, a column of ticks each.
    """

    method: str
    name: str
    title: str
    source: str
    settings: dict[str, Any]
    ablation: str = ""
    without: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The title as tables show it."""
        return f"ablation: {self.title}" if self.ablation else self.title


@dataclass(frozen=True)
class DatasetInfo:
    """One line of `list datasets`, where to get the data, and the defaults of a run on it.

    ``folders``: names that the dataset's folder usually has under a data root. ``text_rule``: how
    captions become strings where a recipe does not say. ``equal_captions_answer``: every picture
    with the target's own caption (its side text) is a right answer, not the target alone.
    """

    name: str
    title: str
    summary: str
    licence: str
    obtain: str
    citation: str
    folders: tuple[str, ...] = ()
    default_protocol: str = "official"
    text_rule: str = "as-is"
    evaluation_split: str = "val"
    equal_captions_answer: bool = False
