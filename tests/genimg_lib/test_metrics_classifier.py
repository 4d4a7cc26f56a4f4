"""The glyph classifier: shapes, read-outs, training that learns and repeats itself, the shipped weights' score."""

import math

import pytest
import torch
from sklearn.metrics import confusion_matrix

from genimg_lib import datasets, weights
from genimg_lib.datasets.glyphs import ALPHABET
from genimg_lib.metrics import classifier, frechet, modes

SHIPPED = "glyph-classifier"


@pytest.fixture(scope="module")
def shipped():
    return weights.load(SHIPPED, classifier.GlyphClassifier())


def test_shapes_and_wrong_shapes():
    model = classifier.GlyphClassifier()
    x = torch.rand(3, 1, 28, 28)
    assert model(x).shape == (3, 62) and model.features(x).shape == (3, 64)
    for wrong in (torch.rand(3, 3, 28, 28), torch.rand(3, 1, 32, 32), torch.rand(3, 784)):
        with pytest.raises(ValueError, match=r"expected grey images \(B, 1, 28, 28\)"):
            model(wrong)


def test_batches_give_what_one_pass_gives_and_refuse_grey_levels():
    model = classifier.GlyphClassifier()
    x = torch.rand(7, 1, 28, 28)
    found = classifier.in_batches(model.features, x, batch_size=3)
    torch.testing.assert_close(found, model.features(x).detach())
    assert not found.requires_grad
    with pytest.raises(ValueError, match="to_unit"):
        classifier.in_batches(model, 255 * x)
    with pytest.raises(TypeError, match="to_unit"):
        classifier.in_batches(model, (255 * x).to(torch.uint8))
    with pytest.raises(ValueError, match="NaN"):
        classifier.in_batches(model, x * math.nan)


def test_read_outs():
    probability = torch.full((2, 62), 1e-6)
    probability[0, ALPHABET.index("0")] = 0.4  # S and s together 0.5, each less than 0
    probability[0, [ALPHABET.index("S"), ALPHABET.index("s")]] = 0.25
    probability[1, ALPHABET.index("7")] = 0.2
    probability[1, ALPHABET.index("z")] = 0.7
    logits = probability.log() + 3
    assert [ALPHABET[i] for i in classifier.read_out(logits)] == ["0", "z"]
    assert [classifier.CASELESS[i] for i in classifier.read_out(logits, "caseless")] == ["S", "Z"]
    assert [ALPHABET[i] for i in classifier.read_out(logits, "digits")] == ["0", "7"]
    assert len(classifier.CASELESS) == 36
    with pytest.raises(ValueError, match="'all', 'caseless' or 'digits'"):
        classifier.read_out(logits, "10")


def test_confusion_matrix_has_the_truth_in_its_rows():
    true, seen = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([0, 1, 2, 2, 0])
    found = classifier.confusion_matrix(true, seen, 3)
    assert found.tolist() == confusion_matrix(true, seen).tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 2]]


def test_training_learns_and_repeats_itself():
    losses = []
    settings = {"steps": 100, "batch_size": 64, "lr": 4e-3, "seed": 4}
    first = classifier.train_classifier(**settings, log=lambda step, loss: losses.append(loss))
    again = classifier.train_classifier(**settings)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(losses) == 1 and losses[0] < 0.75 * math.log(62)  # chance: log 62 = 4.13 nats
    assert classifier.evaluate_classifier(first, n=500)["accuracy"] > 0.1  # chance: 1/62


def test_the_shipped_weights_have_the_score_they_claim(shipped):
    claimed = weights.provenance(SHIPPED)["score"]
    found = classifier.evaluate_classifier(shipped)
    for name in ("accuracy", "accuracy_caseless", "accuracy_digits"):
        assert found[name] == pytest.approx(claimed[name], abs=0.001), name  # a few of 20,000 may flip between processors
    counts, stated = classifier.confusion_of(found), classifier.confusion_of(claimed)
    assert (counts - stated).abs().sum() <= 40 and stated.sum() == 20_000
    assert found["accuracy"] == pytest.approx(float(counts.diagonal().sum()) / 20_000)


def test_what_it_confuses_is_what_looks_alike(shipped):
    counts = classifier.confusion_of(weights.provenance(SHIPPED)["score"])
    wrong = counts - counts.diagonal().diag()
    true, seen = divmod(int(wrong.argmax()), 62)
    alike = ("0Oo", "Il1i", "cC", "sS", "vV", "wW", "xX", "zZ", "kK", "pP", "uU")
    assert any(ALPHABET[true] in group and ALPHABET[seen] in group for group in alike), (ALPHABET[true], ALPHABET[seen])


def test_the_feature_distance_orders_what_is_plainly_ordered(shipped):
    """Nearest: other glyphs of the same fonts; then held-out fonts; then blurred; then noise."""

    def features(images):
        return classifier.in_batches(shipped.features, images)

    real = features(datasets.to_unit(datasets.load("glyphs", n=1500)))
    same = datasets.to_unit(datasets.load("glyphs", n=1500, seed=9))
    held_out = datasets.to_unit(datasets.load("glyphs", n=1500, split="test"))
    blurred = torch.nn.functional.avg_pool2d(same, 5, stride=1, padding=2)
    noise = torch.rand(1500, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    distances = [float(frechet.frechet_distance(real, features(x))) for x in (same, held_out, blurred, noise)]
    assert distances == sorted(distances) and distances[1] > 1.3 * distances[0] and distances[2] > 10 * distances[1]


def test_classes_are_counted_up_to_the_confusions(shipped):
    """1,000 glyphs of six letters, some of them easily confused: the six are found, with their counts."""
    counts = classifier.confusion_of(weights.provenance(SHIPPED)["score"])
    data = datasets.load("glyphs", n=3000, split="test", seed=1, characters="AbsWo7")
    logits = classifier.in_batches(shipped, datasets.to_unit(data))
    plain = torch.bincount(classifier.read_out(logits), minlength=62)
    found = modes.class_modes(logits, counts)
    truth = torch.zeros(62, dtype=torch.float64)
    for label, character in enumerate(data.classes):
        truth[ALPHABET.index(character)] = (data.labels == label).sum()
    assert found.captured == 6
    assert (found.counts - truth).abs().sum() < (plain - truth).abs().sum()
