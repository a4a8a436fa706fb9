"""ARTEMIS: golden numbers, the score by products against the (B, N, d) form, ranks, phases, encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from benchmark.methods.artemis import METHOD, ArtemisSettings
from benchmark.methods.networks.artemis import Attention, Version, artemis_of_version, matching
from benchmark.methods.networks.artemis_encoders import ArtemisMethod, cnn_encoders
from benchmark.methods.networks.cnn_pictures import WhiteSquare
from benchmark.methods.networks.recurrent_texts import MaximumText, artemis_tokens, artemis_vocabulary
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toy_triplets import built, learnt_by_heart, losses, scores, without_gradient

from benchmark.cli import main
from benchmark.dataset import Queries, Ragged, Task, TaskKey
from benchmark.encoding import Encoding
from benchmark.errors import UserError
from benchmark.evaluation.evaluator import EncodedTask, score_task

GOLDEN = Path(__file__).parents[1] / "golden"
VERSIONS: tuple[Version, ...] = get_args(Version)
SMALL: dict[str, Any] = {"cnn": "tiny", "width": 32, "word_width": 16, "lstm_width": 24, "dropout": 0.0}


def artemis(version: Version = "ARTEMIS", frozen: bool = False, **changed: Any) -> ArtemisMethod:
    settings = ArtemisSettings(**{**SMALL, **changed})
    return artemis_of_version(cnn_encoders(settings, None), settings.width, version, frozen)


def explicit_scores(queries: Encoding, targets: Encoding) -> torch.Tensor:
    """EM + IS with a (B, N, d) tensor, as in the paper."""
    assert isinstance(queries, dict) and isinstance(targets, torch.Tensor)
    attended = F.normalize(queries["explicit"][:, None] * targets, dim=-1)
    compared = F.normalize(queries["implicit"][:, None] * targets, dim=-1)
    return torch.einsum("bd,bnd->bn", queries["wanted"], attended) + torch.einsum(
        "bd,bnd->bn", queries["reference"], compared
    )


def drawn_encodings(queries: int, targets: int, width: int = 24) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    unit = {name: F.normalize(torch.randn(queries, width), dim=-1) for name in ("wanted", "reference")}
    soft = {name: (2 * torch.randn(queries, width)).softmax(dim=-1) for name in ("explicit", "implicit")}
    return unit | soft, F.normalize(torch.randn(targets, width), dim=-1)


def test_golden_numbers() -> None:
    assert main(["parity", str(GOLDEN / "artemis.json")]) == 0


def test_the_score_by_products_is_the_explicit_form() -> None:
    queries, targets = drawn_encodings(9, 31)
    found = artemis().score(queries, targets)
    assert (found - explicit_scores(queries, targets)).abs().max() <= 4e-7 * 2
    double = {name: tensor.double() for name, tensor in queries.items()}
    exact = artemis().score(double, targets.double())
    torch.testing.assert_close(exact, explicit_scores(double, targets.double()), rtol=1e-12, atol=1e-12)


def test_the_score_does_not_change_with_the_length_of_attention_or_target() -> None:
    attention = Attention(24)(torch.randn(5, 24)).detach()
    left, targets = torch.randn(5, 24), torch.randn(7, 24)
    found = matching(left, attention, targets)
    torch.testing.assert_close(matching(left, 1e-6 * attention, 100 * targets), found, rtol=1e-4, atol=1e-5)
    one_hot = torch.zeros(1, 24).index_fill(1, torch.tensor([3]), 1.0)
    assert torch.isfinite(matching(left[:1], one_hot, torch.zeros(2, 24))).all()


def drawn_task(queries: int, gallery: int) -> Task:
    """Query i is answered by picture i."""
    positives = np.arange(queries, dtype=np.int64)
    return Task(
        key=TaskKey("made up", "val", "official", "single"),
        queries=Queries(
            ids=tuple(map(str, range(queries))),
            reference_picture=positives,
            reference_in_gallery=np.full(queries, -1, dtype=np.int64),
            texts=("",) * queries,
            positives=Ragged.single(positives),
            group=positives,
        ),
        gallery=np.arange(gallery, dtype=np.int64),
        exclude_reference=False,
        cutoffs=(1, 10),
    )


class LargestTensor(TorchDispatchMode):
    """Watches every operation for the entries of the largest tensor that one makes."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outcome = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outcome):
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return outcome


def test_no_tensor_of_queries_times_gallery_times_width_is_made_in_ranking_or_training() -> None:
    rows, pictures, width = 60, 2000, 48
    queries, gallery = drawn_encodings(rows, pictures, width)
    method = artemis()
    with LargestTensor() as ranking:
        score_task(method, EncodedTask(drawn_task(rows, pictures), queries, gallery))
    assert 0 < ranking.entries <= 2 * max(rows, width) * pictures
    with LargestTensor() as training:
        loss = method.loss({k: v.requires_grad_() for k, v in queries.items()}, gallery[:rows].requires_grad_())
        torch.autograd.backward(loss)
    assert 0 < training.entries < rows * rows * width / 4
    with LargestTensor() as explicit:
        explicit_scores(queries, gallery)
    assert explicit.entries == rows * pictures * width


def test_the_evaluator_ranks_by_the_explicit_form_exactly() -> None:
    queries, gallery = drawn_encodings(40, 150)
    gallery[75:80] = gallery[0]
    found = score_task(artemis(), EncodedTask(drawn_task(40, 150), queries, gallery)).ranks.rank
    exact = explicit_scores({name: tensor.double() for name, tensor in queries.items()}, gallery.double())
    for row in range(40):
        own = exact[row, row]
        others = torch.cat([exact[row, :row], exact[row, row + 1 :]])
        assert found[row] == 1 + int((others >= own - 1e-12).sum())


@pytest.mark.parametrize("version", VERSIONS)
def test_loss_by_a_slow_loop_and_the_learned_factor(version: Version) -> None:
    method, batch = built(lambda: artemis(version))
    found = scores(method.eval(), batch).double()
    factor = torch.tensor(2.65926, dtype=torch.float64).exp()
    expected = -torch.stack([(factor * found[i]).log_softmax(0)[i] for i in range(20)]).mean()
    with torch.no_grad():
        loss = method.loss(method.encode_query(batch.reference, batch.text), method.encode_target(batch.target))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("version", ["EM-only", "IS-only", "late-fusion"])
def test_twenty_triplets_can_be_overfitted(version: Version) -> None:
    method, batch = built(lambda: artemis(version))
    assert learnt_by_heart(method, batch, 40)


@pytest.mark.parametrize("text_encoder", ["bigru", "lstm"])
def test_evaluation_depends_on_neither_batch_nor_padding_and_changes_nothing(text_encoder: str) -> None:
    method, batch = built(lambda: artemis(text_encoder=text_encoder))
    losses(method, batch, 2)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    together = method.encode_query(batch.reference, batch.text)
    for row in (0, 1, 2):
        one = batch.rows(method, [row])
        alone = method.encode_query(one.reference, one.text)
        assert isinstance(alone, dict) and isinstance(together, dict)
        for name, tensor in alone.items():
            torch.testing.assert_close(tensor[0], together[name][row], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in method.state_dict().items())


def test_released_padding_takes_part_in_the_maximum_and_masked_does_not() -> None:
    torch.manual_seed(0)
    short = {"tokens": torch.tensor([[1, 5, 3]]), "lengths": torch.tensor([3])}
    long = {"tokens": torch.tensor([[1, 5, 3, 0, 0, 0]]), "lengths": torch.tensor([3])}
    masked, released = (MaximumText(8, 6, 10, 4, padding, 0.0).eval() for padding in ("masked", "released"))
    torch.testing.assert_close(masked(short), masked(long))
    assert not torch.allclose(released(short), released(long))


def test_the_first_phase_trains_neither_cnn_nor_words_and_the_second_all() -> None:
    frozen = without_gradient(*built(lambda: artemis(frozen=True)))
    whole, batch = built(artemis)
    cnn = {name for name, _ in whole.named_parameters() if name.startswith("encoders.img_enc.cnn.")}
    assert frozen == cnn | {"encoders.txt_enc.embed.weight"}
    assert without_gradient(whole, batch) == set()
    text = {name for name, _ in whole.named_parameters() if name.startswith("encoders.txt_enc.")}
    assert without_gradient(*built(lambda: artemis("visual-search"))) == text


def test_the_second_phase_goes_on_with_the_optimiser() -> None:
    first, second = METHOD.stages(ArtemisSettings(), "pretrained")
    assert (first.name, second.name, second.initialise_from) == ("artemis-frozen", "artemis", "weights and optimiser")
    assert [stage.name for stage in METHOD.stages(ArtemisSettings(cnn="tiny"), "random")] == ["artemis"]


def test_frozen_batch_norms_follow_the_pictures_in_the_first_phase() -> None:
    method, batch = built(lambda: artemis(frozen=True))
    before = method.encoders.img_enc.cnn.bn1.running_mean.clone()
    losses(method, batch, 1)
    assert not torch.equal(before, method.encoders.img_enc.cnn.bn1.running_mean)


def test_a_training_batch_of_one_is_refused() -> None:
    method, batch = built(artemis)
    one = batch.rows(method, [0])
    with pytest.raises(UserError, match="at least two triplets"):
        method.train().encode_query(one.reference, one.text)


def test_two_captions_are_joined_by_a_token_of_their_own() -> None:
    assert artemis_tokens("Is red <and> has a v-neck") == [
        "<start>", "is", "red", "<and>", "has", "a", "v", "neck", "<end>",
    ]  # fmt: skip
    assert artemis_tokens("3 !") == ["<start>", "<end>"]
    vocabulary = artemis_vocabulary(["replace with", "red dress"])
    assert vocabulary.words == ("<pad>", "<start>", "<and>", "<end>", "<unk>", "replace", "with", "red", "dress")
    assert vocabulary.number("coat") == 4


def test_given_word_vectors_are_used_and_a_missing_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("dress " + " ".join(["0.25"] * 16) + "\nunheard " + " ".join(["1"] * 16) + "\n")
    method, _ = built(lambda: artemis(word_vectors=str(path)))
    row = method.extra_state()["words"].index("dress")
    assert method.encoders.txt_enc.embed.weight[row].tolist() == [0.25] * 16
    with pytest.raises(UserError, match="no such file.*glove"):
        artemis(word_vectors=str(tmp_path / "none.txt"))


@pytest.mark.parametrize("size", [(3, 8), (8, 3), (5, 4)])
def test_pictures_are_padded_with_white_the_odd_pixel_right_or_bottom(size: tuple[int, int]) -> None:
    side = max(size)
    pixels = WhiteSquare(side, side, augment=False).picture(Image.new("RGB", size), np.random.default_rng(0))
    black = np.argwhere(pixels[..., 0] == 0)
    top, left = black.min(axis=0)
    assert (left, top) == ((side - size[0]) // 2, (side - size[1]) // 2)
    assert len(black) == size[0] * size[1] and set(np.unique(pixels)) == {0, 255}


def test_augmentation_depends_on_its_draws_alone() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    transform = WhiteSquare(36, 32, augment=True)
    a, b, c = (transform.picture(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert a.shape == (32, 32, 3) and np.array_equal(a, b) and not np.array_equal(a, c)
