"""Searching: the best ten are the benchmark's own, the page finds them, and no client breaks or escapes the server."""

from __future__ import annotations

import io
import json
import random
import shlex
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from browser import headless_browser, requested, violations
from command_line import Command
from PIL import Image

from benchmark.cli import main
from benchmark.data.folders import folder_pictures
from benchmark.errors import UserError
from benchmark.interop.run_model import model_of_run
from benchmark.records.record import read_per_query, read_record
from benchmark.search.gallery import open_gallery
from benchmark.search.searching import Search
from benchmark.search.server import make_search_server
from benchmark.search.uploads import LARGEST_UPLOAD, decoded_upload

HOSTILE = "<img src=x onerror=window.hacked=1> & *a*.png"


@pytest.fixture(scope="module")
def run(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "sum"
    line = f"run --method sum --dataset cirr --data-root {small_cirr} --set method.encoder=untouched --output {folder}"
    assert main(shlex.split(line)) == 0
    return folder


@pytest.fixture(scope="module")
def folder(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in folders of their own, one with a name that would like to be executed, two that cannot be read."""
    place = tmp_path_factory.mktemp("pictures")
    pictures = sorted((small_cirr / "dev").rglob("*.png"))
    (place / "inner").mkdir()
    for number, picture in enumerate(pictures):
        shutil.copy(picture, place / ("inner" if number % 2 else ".") / picture.name)
    shutil.copy(pictures[0], place / HOSTILE)
    (place / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (place / "empty.png").write_bytes(b"")
    (place / "notes.txt").write_text("no picture")
    return place


@pytest.fixture(scope="module")
def search(run: Path, folder: Path, own_surroundings: Path) -> Search:
    pictures = folder_pictures(folder, f"--gallery {folder}")
    gallery = open_gallery(model_of_run(run), pictures, np.arange(len(pictures)), own_surroundings, "pictures")
    return Search(model_of_run(run), gallery)


@pytest.fixture(scope="module")
def address(search: Search) -> Iterator[tuple[str, int]]:
    server = make_search_server(search, "sum, trained on cirr", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield "127.0.0.1", int(server.effective_port)
    server.close()


def asked(address: tuple[str, int], method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection(*address, timeout=20)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_the_best_of_a_query_are_those_that_the_run_listed(run: Path, small_cirr: Path, command: Command) -> None:
    found = read_per_query(run, read_record(run))[0]
    entry = json.loads((small_cirr / "captions" / "cap.rc2.val.json").read_text())[0]
    assert found.ids[0] == str(entry["pairid"]) and found.top is not None
    (image,) = small_cirr.rglob(f"{entry['reference']}.png")
    outcome = command("search", "--run", run, "--image", image, "--text", entry["caption"], "--data-root", small_cirr)
    assert outcome.status == 0
    names = [line.split()[2] for line in outcome.out.splitlines() if line[:2].strip().isdigit()]
    assert len(names) == 10
    expected = [found.gallery[g] for g in found.top[0, :10]]
    # The protocol leaves the reference out; a picture from outside is in no gallery.
    assert [name for name in names if name != entry["reference"]] == expected[: 10 - (entry["reference"] in names)]
    with Image.open("search.png") as drawn:
        assert drawn.width > 900 and drawn.height > 500


def test_any_folder_is_searched_and_what_cannot_be_read_is_named(run: Path, folder: Path, command: Command) -> None:
    image = sorted(folder.glob("dev*.png"))[-1]
    arguments = ["--run", run, "--image", image, "--text", "is red", "--gallery", folder]
    outcome = command("search", *arguments)
    assert outcome.status == 0 and "2 pictures cannot be read and are left out: broken.jpg, empty.png" in outcome.out
    again = command("search", *arguments)
    assert again.out == outcome.out and "features of the gallery" not in again.err


def test_features_of_the_gallery_are_kept_in_the_store(search: Search, own_surroundings: Path) -> None:
    kept = list((own_surroundings / "features").rglob("pictures-search-*/global-*.safetensors"))
    assert len(kept) == 1 and kept[0].stat().st_size > len(search.gallery.names) * 64 * 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text", "x"], "needs --image and --text"),
        (["--serve", "--text", "x"], "leave --text out"),
        (["--image", "none.png", "--text", "x", "--gallery", "nowhere"], "no such folder"),
        (["--image", "none.png", "--text", "x", "--gallery", "."], "holds no pictures"),
        (["--image", "none.png", "--text", "x", "--port", "99999"], "a port is a number"),
    ],
)
def test_what_cannot_be_searched_is_one_line(arguments: list[str], words: str, run: Path, command: Command) -> None:
    outcome = command("search", "--run", run, *arguments)
    assert outcome.status == 2 and words in outcome.err and len(outcome.errors) == 1


def test_an_upload_is_held_against_bounds_before_it_is_decoded() -> None:
    assert decoded_upload(png(Image.new("RGB", (30, 20)))).size == (30, 20)
    bomb = png(Image.new("1", (20_000, 20_000)))
    assert len(bomb) < 200_000
    for content, words in (
        (bomb, "refused as too large"),
        (png(Image.new("L", (6000, 2))), "refused as too large"),
        (b"x" * (LARGEST_UPLOAD + 1), "at most"),
        (b"", "no picture"),
        (b"GIF89a", "no picture"),
        (png(Image.new("RGB", (300, 300), "red"))[:-40], "no picture"),
        (b"%PDF-1.4", "no picture"),
    ):
        with pytest.raises(UserError, match=words):
            decoded_upload(content)


def test_a_search_by_upload_and_by_number(search: Search, address: tuple[str, int]) -> None:
    status, body = asked(address, "POST", "/search?text=is+red&reference=3")
    hits = json.loads(body)["hits"]
    assert status == 200 and [h["number"] for h in hits] == [h.number for h in search.best(3, "is red")]
    assert 3 not in [h["number"] for h in hits] and len(hits) == 10
    content = search.gallery.paths[3].read_bytes()
    status, body = asked(address, "POST", "/search?text=is+red", content)
    others = [h["number"] for h in json.loads(body)["hits"] if h["number"] != 3]
    assert status == 200 and others == [h["number"] for h in hits][: len(others)] and len(others) >= 9
    status, body = asked(address, "GET", "/picture/3")
    assert status == 200 and Image.open(io.BytesIO(body)).format == "JPEG"


def test_several_clients_at_once_get_the_same(address: tuple[str, int]) -> None:
    def one(number: int) -> bytes:
        return asked(address, "POST", f"/search?text=is+blue&reference={number % 3}")[1]

    alone = [one(number) for number in range(3)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(24))) == alone * 8


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/picture/../../../etc/passwd", None, {}, 404),
        ("GET", "/picture/%2e%2e%2fetc%2fpasswd", None, {}, 404),
        ("GET", "/picture//etc/passwd", None, {}, 404),
        ("GET", "/picture/-1", None, {}, 404),
        ("GET", "/picture/999999", None, {}, 404),
        ("GET", "/picture/" + "9" * 400, None, {}, 404),
        ("GET", "/gallery?from=../x", None, {}, 400),
        ("GET", "/gallery?from=999999999", None, {}, 200),
        ("GET", "/search?text=x&reference=1", None, {}, 405),
        ("DELETE", "/", None, {}, 405),
        ("POST", "/search?text=&reference=1", None, {}, 400),
        ("POST", "/search?text=x", None, {}, 400),
        ("POST", "/search?text=x&reference=%2Fetc%2Fpasswd", None, {}, 400),
        ("POST", "/search?text=x&reference=1", b"both", {}, 400),
        ("POST", "/search?text=x", b"no picture", {}, 400),
        ("POST", "/search?text=" + "x" * 3000 + "&reference=1", None, {}, 400),
        ("POST", "/search?text=%ff%fe&reference=1", None, {}, 400),
        ("POST", "/search?" + "&".join(f"a{i}=1" for i in range(99)), None, {}, 400),
        ("GET", "/", None, {"Host": "evil.example"}, 403),
        ("POST", "/search?text=x&reference=1", None, {"Origin": "http://evil.example"}, 403),
    ],
)
def test_what_no_page_of_ours_asks_is_refused(
    method: str, path: str, body: bytes | None, headers: dict[str, str], status: int, address: tuple[str, int]
) -> None:
    found, content = asked(address, method, path, body, **headers)
    assert found == status and b"root:" not in content and b"Traceback" not in content


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(address: tuple[str, int]) -> None:
    head = f"POST /search?text=x HTTP/1.1\r\nHost: 127.0.0.1:{address[1]}\r\nContent-Length: {LARGEST_UPLOAD * 50}\r\n\r\n"
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(200)


def test_a_fuzzing_client_never_breaks_the_server(address: tuple[str, int], search: Search) -> None:
    generator = random.Random(0)
    whole = search.gallery.paths[0].read_bytes()
    for number in range(150):
        kind = number % 3
        if kind == 0:
            # Pictures with some bytes changed, cut short or prolonged.
            content = bytearray(whole[: generator.randrange(1, len(whole))])
            for _ in range(generator.randrange(20)):
                content[generator.randrange(len(content))] = generator.randrange(256)
            assert asked(address, "POST", "/search?text=x", bytes(content))[0] in (200, 400)
        elif kind == 1:
            path = "/" + quote(bytes(generator.randrange(1, 256) for _ in range(generator.randrange(1, 60))))
            assert asked(address, generator.choice(["GET", "POST", "PUT"]), path)[0] in (400, 404, 405)
        else:
            with socket.create_connection(address, timeout=5) as connection:
                connection.sendall(bytes(generator.randrange(256) for _ in range(generator.randrange(1, 300))) + b"\r\n\r\n")
                connection.settimeout(0.2)
                try:
                    assert b" 500 " not in connection.recv(100)
                except TimeoutError:
                    pass
    assert asked(address, "POST", "/search?text=is+red&reference=3")[0] == 200


def test_a_port_that_is_taken_is_one_line(address: tuple[str, int], search: Search) -> None:
    with pytest.raises(UserError, match=f"--port {address[1]}: cannot be used"):
        make_search_server(search, "sum", address[1])


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with headless_browser() as found:
        found.implicitly_wait(5)
        yield found


def test_the_page_finds_goes_on_and_executes_nothing(driver: Any, address: tuple[str, int], search: Search) -> None:
    home = f"http://{address[0]}:{address[1]}/"
    driver.get(home)
    driver.find_element("css selector", "#gallery button")
    picture = search.gallery.paths[3]
    driver.find_element("id", "go").click()
    assert "Choose a reference picture" in driver.find_element("id", "told").text
    driver.find_element("id", "file").send_keys(str(picture))
    driver.find_element("id", "text").send_keys("is red")
    driver.find_element("id", "go").click()
    hits = driver.find_elements("css selector", "#hits button")
    assert [int(hit.get_attribute("data-number")) for hit in hits] == [h.number for h in search.best(picture, "is red")]
    chosen = int(hits[4].get_attribute("data-number"))
    hits[4].click()
    assert driver.find_element("id", "hint").text == search.gallery.names[chosen]
    driver.find_element("id", "text").send_keys("is blue\n")
    expected = [str(h.number) for h in search.best(chosen, "is blue")]
    for _ in range(50):
        shown = [hit.get_attribute("data-number") for hit in driver.find_elements("css selector", "#hits button")]
        if shown == expected:
            break
    assert shown == expected
    # A name that would like to be executed is a name; unreadable ones are told.
    names = [b.get_attribute("title") for b in driver.find_elements("css selector", "#gallery button")]
    assert HOSTILE in names and driver.execute_script("return window.hacked") is None
    assert "2 pictures cannot be read" in driver.find_element("css selector", ".note").text
    # Dropping a file that is no picture tells so.
    driver.execute_script(
        "const data = new DataTransfer(); data.items.add(new File(['no picture'], 'x.png', {type: 'image/png'}));"
        "document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true}));"
    )
    driver.find_element("id", "go").click()
    told = driver.find_element("css selector", "#told.wrong")
    assert "no picture that can be read" in told.text
    assert violations(driver) == []
    assert all(each.startswith((home, "blob:", "data:")) for each in requested(driver))
