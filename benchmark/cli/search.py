"""Search any folder of pictures by a picture and a text with a run's method; prints and draws the best ten.

Without --gallery the pictures are those that the run's dataset is evaluated on. With --serve a small page opens on
this machine alone (127.0.0.1): drop a picture or pick one, type, see, and click a result to go on from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cli.arguments import add_options, run_values
from benchmark.errors import UserError, first_of

if TYPE_CHECKING:
    from benchmark.interop.exported import Model
    from benchmark.search.gallery import SearchGallery

SUMMARY = "try a trained method: a picture and a text against any folder of pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, metavar="RUN", dest="run_folder", help="a run's folder or weights file")
    parser.add_argument("--image", metavar="FILE", help="the reference picture")
    parser.add_argument("--text", metavar="TEXT", help="how the wanted picture differs")
    parser.add_argument("--caption", metavar="TEXT", help="of the reference, for a method that reads one (DQU-CIR)")
    parser.add_argument("--words", metavar="TEXT", help="to write on the reference, for such a method: 'red, no belt'")
    parser.add_argument("--gallery", metavar="FOLDER", help="the pictures to search")
    parser.add_argument("--serve", action="store_true", help="open a page on 127.0.0.1 to try queries with")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="of the page, 8000 by default; 0: any free")
    parser.add_argument("--encoder", metavar="FILE", help="the encoder that the run was trained on, if moved")
    add_options(
        parser, "data_root", "demo", "cache", "assets_root", "device", "plugins",
        output="the picture of the best ten; search.png by default",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    from benchmark.interop.run_model import model_of_run
    from benchmark.options import assets_root
    from benchmark.search.searching import Search, draw_best

    asked = [name for name in ("image", "text") if getattr(options, name)]
    if options.serve and asked:
        raise UserError(f"--serve takes queries from its page; leave --{' and --'.join(asked)} out")
    if not options.serve and len(asked) < 2:
        raise UserError("search needs --image and --text, or --serve for a page to try queries with")
    if not 0 <= options.port <= 65_535:
        raise UserError(f"--port {options.port}: a port is a number from 0 to 65535")
    values = run_values(options)
    output = Path(values.pop("output", "") or "search.png")
    plugins = tuple(values.get("plugins", ()))
    model = model_of_run(
        Path(options.run_folder), encoder=options.encoder or "", assets_root=assets_root(options.assets_root or ""),
        plugins=plugins, device=options.device or "cpu",
    )  # fmt: skip
    for option, is_read in (("caption", model.reads_picture_texts), ("words", model.shows_notes)):
        if is_read and (options.serve or getattr(options, option) is None):
            page = "; the page of --serve does not ask for it, search with --image" if options.serve else ""
            raise UserError(f"--{option} is missing: {model.header.method} reads it of each reference{page}")
    gallery = _gallery(model, options.gallery, values)
    if gallery.unreadable:
        names = first_of(list(gallery.unreadable))
        print(f"{len(gallery.unreadable):,} pictures cannot be read and are left out: {names}")
    search = Search(model, gallery)
    if options.serve:
        return _serve(search, f"{model.header.method}, trained on {model.header.training_dataset}", options.port)
    hits = search.best(
        Path(options.image), options.text, caption=options.caption, words=options.words
    )
    for place, hit in enumerate(hits, start=1):
        print(f"{place:>2}  {hit.score:8.4f}  {hit.name}")
    draw_best(output, Path(options.image), options.text, [gallery.paths[hit.number] for hit in hits])
    print(f"drawn: {output}")
    return 0


def _gallery(model: Model, folder: str | None, values: dict[str, Any]) -> SearchGallery:
    import numpy as np

    from benchmark.data.dataset_choice import open_dataset
    from benchmark.data.folders import folder_pictures
    from benchmark.options import make_options
    from benchmark.registry import discover
    from benchmark.search.gallery import open_gallery

    chosen = make_options(method=model.header.method, dataset=model.header.dataset, **values)
    if folder:
        pictures = folder_pictures(Path(folder), f"--gallery {folder}")
        indices, label = np.arange(len(pictures)), Path(folder).resolve().name
    else:
        registry = discover()
        for plugin in chosen.plugins:
            registry.add_plugin(Path(plugin))
        dataset = open_dataset(registry, chosen)
        pictures, label = dataset.pictures, dataset.label
        indices = dataset.split_pictures(dataset.info.evaluation_split)
    return open_gallery(model, pictures, indices, chosen.cache_root, label)


def _serve(search: Any, title: str, port: int) -> int:
    from benchmark.search.server import HOST, make_search_server

    server = make_search_server(search, title, port)
    print(f"http://{HOST}:{server.effective_port}/ on this machine alone; Ctrl-C ends it", flush=True)
    server.run()
    return 0
