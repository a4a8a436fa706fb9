"""Files from outside, spoilt in hundreds of ways: read, or refused in words that name the file; never anything else."""

from __future__ import annotations

import json
import random
import warnings
from functools import partial
from pathlib import Path

import hostile_mutations as mutations
import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmark.errors import UserError
from benchmark.interop.embeddings_file import read_embeddings
from benchmark.interop.ranked_lists import read_ranked_lists
from benchmark.interop.server_files import CIRR, read_server_numbers

LISTS = {str(number): [f"name {i}" for i in range(12)] for number in range(5)}
LINES = "\n".join(json.dumps({"query": query, "ranking": ranking}) for query, ranking in LISTS.items())
TREC = "\n".join(f"{query} Q0 n{i} {i} {1 / (1 + i)} me" for query in LISTS for i in range(12))
SERVER = json.dumps({"version": "rc2", "metric": "recall", **LISTS})
ARRAYS = {
    "queries": np.random.default_rng(0).standard_normal((5, 3)),
    "gallery": np.random.default_rng(1).standard_normal((7, 3)),
    "query_ids": np.array(list("abcde")),
    "gallery_ids": np.array(list("fghijkl")),
}


def npz(path: Path, rng: random.Random) -> None:
    mutations.write_spoilt_npz(path.with_suffix(".npz"), ARRAYS, rng)
    path.with_suffix(".npz").rename(path)


def safetensors(path: Path, rng: random.Random) -> None:
    ids = {name: json.dumps(ARRAYS[name].tolist()) for name in ("query_ids", "gallery_ids")}
    save_file({name: ARRAYS[name] for name in ("queries", "gallery")}, path, ids)
    path.write_bytes(mutations.spoil_safetensors(path.read_bytes(), rng))


def lines(path: Path, rng: random.Random) -> None:
    entries = LINES.splitlines()
    at = rng.randrange(len(entries))
    entries[at] = json.dumps(mutations.spoil_tree(json.loads(entries[at]), rng))
    path.write_bytes("\n".join(entries).encode("utf-8", "surrogatepass"))


def lines_as_text(path: Path, rng: random.Random) -> None:
    path.write_bytes(mutations.spoil_text(LINES, rng))


def trec(path: Path, rng: random.Random) -> None:
    path.write_bytes(mutations.spoil_text(TREC, rng))


def server(path: Path, rng: random.Random) -> None:
    path.write_bytes(mutations.spoil_json(SERVER, rng))


def numbers(path: Path, rng: random.Random) -> None:
    path.write_bytes(mutations.spoil_json(json.dumps({"R@1": 40.1, "R@2": 50.5, "R@5": 60, "R_subset@3": 90}), rng))


READERS = {
    npz: read_embeddings,
    safetensors: read_embeddings,
    lines: read_ranked_lists,
    lines_as_text: read_ranked_lists,
    trec: read_ranked_lists,
    server: read_ranked_lists,
    numbers: partial(read_server_numbers, server=CIRR),
}


@pytest.mark.parametrize("spoil", READERS, ids=lambda spoil: spoil.__name__)
def test_a_spoilt_file_is_read_or_refused_in_words(spoil, tmp_path: Path) -> None:
    refused = 0
    for number in range(150):
        path = tmp_path / f"mine{number}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy, about what the change does to numbers
            spoil(path, random.Random(number))
        try:
            READERS[spoil](path)
        except UserError as error:
            refused += 1
            told = str(error).splitlines()
            assert all(str(path) in line for line in told), f"{number}: {error}"
            assert len(told) <= 4 and max(map(len, told)) < 2000, f"{number}: {error}"
    assert 40 < refused
