"""Doors to other models against stand-ins with the calls of their cards, and against a local HTTP server."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Command
from PIL import Image

from benchmark.interop.doors import bge_vl, covr2, endpoint, vlm2vec
from benchmark.interop.doors.door import read_exported
from benchmark.interop.embeddings_file import read_embeddings

README = Path(bge_vl.__file__).with_name("README.md")
WIDTH = 8


@pytest.fixture(scope="module")
def queries(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from benchmark.cli import main

    file = tmp_path_factory.mktemp("exported") / "queries.jsonl"
    assert main(["data", "export-queries", "cirr", "--data-root", str(small_cirr), "--output", str(file)]) == 0
    return file


@pytest.fixture(autouse=True)
def gradients_as_before() -> Iterator[None]:
    """A door called from a program of the user's leaves that program's gradients alone."""
    yield
    assert torch.is_grad_enabled()


def of_bytes(*parts: bytes) -> np.ndarray:
    """A row that depends on every byte, of no unit norm."""
    seed = int.from_bytes(hashlib.sha256(b"|".join(parts)).digest()[:4], "big")
    return 3 * np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def checked(output: Path, queries: Path, picture: Callable[[Path], np.ndarray], asked: Callable[[Path, str], np.ndarray]) -> None:
    """The file holds what the stand-in gives for each picture and query, and says what it is of."""
    found, exported = read_embeddings(output), read_exported(queries)
    assert found.queries_digest == exported.digest
    gallery, rows = found.matrices["gallery"], found.matrices["queries"]
    assert gallery.ids == exported.names and rows.ids == exported.ids
    assert np.allclose(gallery.values, unit(np.stack([picture(p) for p in exported.pictures])), atol=1e-6)
    wanted = [asked(p, t) for p, t in zip(exported.references, exported.texts, strict=True)]
    assert np.allclose(rows.values, unit(np.stack(wanted)), atol=1e-6)


class BgeStandIn:
    """`encode` of the CLIP-based models; `data_process` and a call of the others, with two tokens a row."""

    mask = torch.tensor([[0, 1]])

    def eval(self) -> BgeStandIn:
        return self

    def to(self, device: str) -> BgeStandIn:
        return self

    def set_processor(self, name: str) -> None:
        self.name = name

    def encode(self, images: list[str], text: list[str] | None = None) -> torch.Tensor:
        rows = [of_bytes(Path(p).read_bytes(), t.encode()) for p, t in zip(images, text or [""] * len(images), strict=True)]
        return torch.from_numpy(np.stack(rows))

    def data_process(self, images: list[str], q_or_c: str, text: Any = None, task_instruction: str = "") -> dict[str, Any]:
        assert (q_or_c == "q") == (text is not None) == bool(task_instruction)
        rows = self.encode(images, [task_instruction + t for t in text] if text else None)
        return {"rows": rows, "attention_mask": self.mask.expand(len(rows), -1)}

    def __call__(self, rows: torch.Tensor, attention_mask: torch.Tensor, output_hidden_states: bool) -> torch.Tensor:
        return torch.stack([torch.zeros_like(rows), rows], dim=1)


@pytest.mark.parametrize("name", ["BAAI/BGE-VL-base", "BAAI/BGE-VL-MLLM-S1"])
def test_bge_vl(name: str, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = BgeStandIn(), {}

    def from_pretrained(wanted: str, **options: Any) -> BgeStandIn:
        given.update(options, wanted=wanted)
        return model

    library = SimpleNamespace(AutoModel=SimpleNamespace(from_pretrained=from_pretrained))
    monkeypatch.setitem(sys.modules, "transformers", library)
    assert bge_vl.main([str(queries), "--output", str(tmp_path / "x.npz"), "--model", name, "--batch", "7"]) == 0
    assert given == {"wanted": name, "trust_remote_code": True} and model.name == name
    before = bge_vl.INSTRUCTION if "MLLM" in name else ""
    checked(
        tmp_path / "x.npz", queries, lambda p: of_bytes(p.read_bytes(), b""),
        lambda p, t: of_bytes(p.read_bytes(), (before + t).encode()),
    )  # fmt: skip


def test_bge_vl_does_not_read_padding(
    queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = BgeStandIn()
    model.mask = torch.tensor([[1, 0]])
    library = SimpleNamespace(AutoModel=SimpleNamespace(from_pretrained=lambda name, **options: model))
    monkeypatch.setitem(sys.modules, "transformers", library)
    assert bge_vl.main([str(queries), "--output", str(tmp_path / "x.npz"), "--model", "BAAI/BGE-VL-MLLM-S1"]) == 2
    assert "pads behind the texts" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_vlm2vec(queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StandIn:
        @classmethod
        def load(cls, arguments: Any) -> StandIn:
            assert (arguments.pooling, arguments.normalize, arguments.model_backbone) == ("last", True, "phi3_v")
            return cls()

        def eval(self) -> StandIn:
            return self

        def to(self, device: str, dtype: torch.dtype) -> StandIn:
            return self

        def __call__(self, **given: Any) -> dict[str, torch.Tensor]:
            ((side, inputs),) = given.items()
            return {f"{side}_reps": inputs["rows"].to(torch.bfloat16)}

    def processor(text: str, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        return {"rows": torch.from_numpy(of_bytes(images[0].tobytes(), text.encode())[None])}

    library = {
        "src": ModuleType("src"), "src.model": SimpleNamespace(MMEBModel=StandIn),
        "src.arguments": SimpleNamespace(ModelArguments=SimpleNamespace),
        "src.utils": SimpleNamespace(load_processor=lambda arguments: processor),
    }  # fmt: skip
    for name, module in library.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert vlm2vec.main([str(queries), "--output", str(tmp_path / "x.npz"), "--device", "cpu"]) == 0

    def row(picture: Path, text: str) -> np.ndarray:
        with Image.open(picture) as image:
            exact = of_bytes(image.convert("RGB").tobytes(), f"<|image_1|> {text}".encode())
        return torch.from_numpy(exact).to(torch.bfloat16).float().numpy()

    told = "Given an image, find a similar everyday image with the described changes: "
    checked(tmp_path / "x.npz", queries, lambda p: row(p, "Represent the given image."), lambda p, t: row(p, told + t))


LOADER = '''
import torch
from types import SimpleNamespace

torch.manual_seed(0)
WORDS, TOKENS, WIDTH = torch.randn(128, 8), torch.randn(1, 32, 8), 8


class Words(dict):
    def __getattr__(self, name): return self[name]
    def to(self, device): return self


def tokenizer(texts, padding, truncation, max_length, return_tensors):
    assert (padding, truncation, max_length, return_tensors) == ("longest", True, 64, "pt")
    longest = max(len(text) for text in texts)
    ids = torch.tensor([[ord(c) % 127 + 1 for c in text] + [0] * (longest - len(text)) for text in texts])
    return Words(input_ids=ids, attention_mask=(ids > 0).long())


def bert(input_ids=None, *, query_embeds, encoder_hidden_states, encoder_attention_mask, return_dict, attention_mask=None):
    """Every token gets the mean of all that the mask leaves in, and of the picture."""
    tokens = query_embeds if input_ids is None else torch.cat([query_embeds, WORDS[input_ids]], dim=1)
    mask = torch.ones(tokens.shape[:2]) if attention_mask is None else attention_mask
    assert mask.shape == tokens.shape[:2] and encoder_attention_mask.shape == encoder_hidden_states.shape[:2]
    mean = (tokens * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    return SimpleNamespace(last_hidden_state=tokens + mean + encoder_hidden_states.mean(1, keepdim=True))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.visual_encoder, self.ln_vision = torch.nn.Linear(3, 8), torch.nn.LayerNorm(8)
        self.vision_proj, self.text_proj = torch.nn.Linear(8, 5), torch.nn.Linear(8, 5)
        self.query_tokens, self.tokenizer, self.Qformer = TOKENS, tokenizer, SimpleNamespace(bert=bert)


MODEL = Model()


def transform(image):
    return torch.tensor(list(image.resize((4, 4)).getdata()), dtype=torch.float32) / 255


def load():
    return MODEL, transform
'''


def test_covr2_asks_the_q_former_and_ignores_padding(queries: Path, tmp_path: Path) -> None:
    (tmp_path / "loader.py").write_text(LOADER)
    door = [str(queries), "--loader", str(tmp_path / "loader.py"), "--device", "cpu"]
    files = {batch: tmp_path / f"{batch}.npz" for batch in (1, 9)}
    for batch, file in files.items():
        assert covr2.main([*door, "--output", str(file), "--batch", str(batch)]) == 0
    one, nine = (read_embeddings(file).matrices for file in files.values())
    for entry in ("queries", "gallery"):
        assert one[entry].values.shape[1] == 5
        assert torch.allclose(one[entry].values, nine[entry].values, atol=1e-5), "texts of a batch are padded alike"
    assert len(np.unique(one["queries"].values.numpy().round(5), axis=0)) > len(one["queries"].ids) // 2


class Server(BaseHTTPRequestHandler):
    """Embeds pictures and texts as `of_bytes` does, in reversed order with their places; busy now and then."""

    seen: list[dict[str, Any]] = []
    keys: set[str | None] = set()
    busy = 0
    status = 200

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body)
        self.keys.add(self.headers.get("Authorization"))
        if Server.busy:
            Server.busy -= 1
            return self.answer(503, {"error": "busy"})
        if Server.status != 200:
            return self.answer(Server.status, {"error": "no such model\nat all"})
        rows = [self.embedded(item) for item in self.items(body)]
        data = [{"index": i, "embedding": row.tolist()} for i, row in enumerate(rows)][::-1]
        self.answer(200, {"data": data})

    def items(self, body: dict[str, Any]) -> list[list[dict[str, Any]]]:
        if "messages" in body:
            return [body["messages"][0]["content"]]
        return [[item] for item in body["input"]]

    def embedded(self, content: list[dict[str, Any]]) -> np.ndarray:
        parts = []
        for item in content:
            address = item.get("image") or item.get("image_url", {}).get("url")
            parts.append(base64.b64decode(address.partition(",")[2]) if address else item["text"].encode())
        return of_bytes(*parts)

    def answer(self, status: int, content: Any) -> None:
        if status == 0:
            self.wfile.write(b"no HTTP at all\r\n")
            return
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Server.seen, Server.keys, Server.busy, Server.status = [], set(), 0, 200
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: None)
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("form", ["messages", "input"])
def test_an_endpoint(form: str, served: str, queries: Path, tmp_path: Path) -> None:
    Server.busy = 2
    door = [str(queries), "--output", str(tmp_path / "x.npz"), "--url", served, "--model", "m", "--form", form]
    assert endpoint.main(door) == 0
    assert Server.keys == {"Bearer a key"} and {(b["model"], b["encoding_format"]) for b in Server.seen} == {("m", "float")}
    told = "Given an image, find a similar everyday image with the described changes: "
    if form == "messages":
        picture = lambda p: of_bytes(p.read_bytes(), b"Represent the given image.")  # noqa: E731
        asked = lambda p, t: of_bytes(p.read_bytes(), (told + t).encode())  # noqa: E731
    else:
        picture = lambda p: of_bytes(p.read_bytes())  # noqa: E731
        asked = lambda p, t: unit(of_bytes(p.read_bytes())[None])[0] + unit(of_bytes(t.encode())[None])[0]  # noqa: E731
    checked(tmp_path / "x.npz", queries, picture, asked)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "answered 404 ({\"error\": \"no such model\\nat all\"})"), (302, "answered 302"), (503, "answered 503"),
        (0, "cannot be reached (no HTTP at all)"),
    ],
)
def test_what_a_server_refuses_is_one_line_and_writes_nothing(
    status: int, words: str, served: str, queries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Server.status = status
    assert endpoint.main([str(queries), "--output", str(tmp_path / "x.npz"), "--url", served, "--model", "m"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and len(Server.seen) == (4 if status == 503 else 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("door", ["bge_vl", "vlm2vec", "covr2", "endpoint"])
def test_faults_are_one_line(door: str, queries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A library or server that is not there; queries that are none."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    main = import_module(f"benchmark.interop.doors.{door}").main
    more = {
        "covr2": ["--loader", str(tmp_path / "none.py")], "endpoint": ["--model", "m", "--url", "http://127.0.0.1:9/v1"],
    }.get(door, [])  # fmt: skip
    words = {"covr2": "no Python file", "endpoint": "cannot be reached"}.get(door, "is not installed here")
    assert main([str(queries), "--output", str(tmp_path / "x.npz"), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    (tmp_path / "wrong.jsonl").write_text('{"gallery": "a", "path": "a.png"}\n{"query": 3}\n')
    assert main([str(tmp_path / "wrong.jsonl"), "--output", str(tmp_path / "x.npz"), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "line 2: not of `data export-queries`" in line and not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize("rows", [np.full((1, 4), np.nan), np.zeros((1, 4)), np.ones((2, 4)), np.ones(4)])
def test_rows_that_are_no_embeddings_are_refused(rows: np.ndarray, queries: Path, tmp_path: Path) -> None:
    from benchmark.errors import UserError
    from benchmark.interop.doors.door import embed_exported

    model = SimpleNamespace(embed_pictures=lambda pictures: rows, embed_queries=lambda references, texts: rows)
    with pytest.raises(UserError, match="gallery: the (model gave|embedding of)"):
        embed_exported(model, read_exported(queries), tmp_path / "x.npz", 1)
    assert not (tmp_path / "x.npz").exists()


def test_every_command_of_the_readme_runs(
    served: str, small_cirr: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As written, but for the addresses, the device, and the two libraries that a stand-in has a test of its own for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "load_covr2.py").write_text(LOADER)
    library = SimpleNamespace(AutoModel=SimpleNamespace(from_pretrained=lambda name, **options: BgeStandIn()))
    (block,) = re.findall(r"^```bash\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ran = []
    for line in block.splitlines():
        line = line.replace("--data-root DATA", f"--data-root {small_cirr}").replace("http://localhost:8000/v1", served)
        module, *words = shlex.split(line.replace("--device cuda", "--device cpu"))[2:]
        if module == "benchmark":
            assert command(*words).status == 0
        elif not module.endswith("vlm2vec"):
            words += ["--device", "cpu"] if module.endswith("covr2") else []
            with monkeypatch.context() as patch:
                patch.setitem(sys.modules, "transformers", library)
                assert import_module(module).main(words) == 0
        ran.append(module.rpartition(".")[2])
    assert ran == ["benchmark", "bge_vl", "vlm2vec", "covr2", "endpoint", "benchmark"]


def test_a_door_imports_no_torch_before_it_runs() -> None:
    names = ", ".join(f"benchmark.interop.doors.{door}" for door in ("bge_vl", "vlm2vec", "covr2", "endpoint"))
    code = f"import sys, {names}; print([name for name in ('torch', 'pydantic', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
