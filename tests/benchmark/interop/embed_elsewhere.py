"""A person's own script: reads exported queries, writes embeddings and ranked lists, with numpy alone.

Usage: embed_elsewhere.py QUERIES.jsonl ANNOTATIONS.json FOLDER. Prints the recalls as it finds them.
"""

import hashlib
import json
import sys

import numpy as np


def embed(text):
    seed = int.from_bytes(hashlib.md5(text.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).standard_normal(16)


lines = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
gallery = [line["gallery"] for line in lines if "gallery" in line]
queries = [line for line in lines if "query" in line]
pictures = np.stack([embed(name) for name in gallery]).astype(np.float16)
asked = np.stack([embed(q["reference"]) + embed(q["text"]) for q in queries]).astype(np.float16)
ids = [q["query"] for q in queries]
made_for = {key: queries[0][key] for key in ("protocol", "queries_digest")}
digest = made_for["queries_digest"]
np.savez(
    f"{sys.argv[3]}/mine.npz",
    queries=asked, query_ids=ids, gallery=pictures, gallery_ids=gallery, queries_digest=digest,
)  # fmt: skip

scores = asked.astype(np.float64) @ pictures.astype(np.float64).T
with open(f"{sys.argv[3]}/mine.jsonl", "w", encoding="utf-8") as out:
    for q, row in zip(queries, scores, strict=True):
        ranking = [gallery[g] for g in np.argsort(-row) if q["reference_ranked"] or gallery[g] != q["reference"]]
        out.write(json.dumps({"query": q["query"], "ranking": ranking, **made_for}) + "\n")

targets = {str(e["pairid"]): e["target_hard"] for e in json.load(open(sys.argv[2], encoding="utf-8"))}
places, among = [], []
for q, row in zip(queries, scores, strict=True):
    score = dict(zip(gallery, row, strict=True))
    target = score[targets[q["query"]]]
    places.append(sum(score[name] >= target for name in gallery if name != q["reference"]))
    among.append(sum(score[name] >= target for name in q["subset"]))
found = {f"R@{k}": 100 * np.mean([p <= k for p in places]) for k in (1, 5, 10, 50)}
found |= {f"R_subset@{k}": 100 * np.mean([p <= k for p in among]) for k in (1, 2, 3)}
found["(R@5+R_subset@1)/2"] = (found["R@5"] + found["R_subset@1"]) / 2
print(json.dumps(found))
