"""Bi-WOOF and LBP-TOP: features against their definitions, the SVM against scikit-learn's, fitting inside a run."""

from __future__ import annotations

import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.settings import PrepareConfig, TrainConfig
from mepipe.workspace import Workspace
from mepipe_model import fitted as fitted_module
from mepipe_model.models import create_model, list_models, model_info
from mepipe_model.models import lbp_top as lbp
from mepipe_model.models.bi_woof import block_means, oriented
from mepipe_model.models.maps import optical_strain
from mepipe_model.models.svm import SvmHead
from mepipe_model.recipes import resolved
from mepipe_model.runs import find_run, read_predictions
from mepipe_model.train import train_run

FITTED = ("bi_woof", "lbp_top")


def flow(n=4, size=56, seed=0):
    g = torch.Generator().manual_seed(seed)
    uv = torch.nn.functional.interpolate(torch.randn(n, 2, 7, 7, generator=g), size=size, mode="bicubic")
    return torch.cat((uv, uv.norm(dim=1, keepdim=True)), 1)


# --- Bi-WOOF -------------------------------------------------------------------------------------------


def test_a_pixel_counts_by_its_magnitude_in_the_bin_of_its_orientation():
    angles = [(k + 0.5) * math.pi / 4 - math.pi for k in range(8)]
    for k, angle in enumerate(angles):
        u, v = (torch.full((1, 4, 4), 3 * f(angle)) for f in (math.cos, math.sin))
        got = oriented(u, v, 8)
        want = torch.zeros(1, 8, 4, 4)
        want[:, k] = 3.0
        torch.testing.assert_close(got, want)
    left = oriented(torch.full((1, 1, 1), -1.0), torch.zeros(1, 1, 1), 8)
    assert left.flatten().tolist() == [1, 0, 0, 0, 0, 0, 0, 0], "+pi is -pi: the first bin"


def test_block_means_are_means_of_disjoint_blocks_that_cover_the_map():
    x = torch.randn(2, 3, 23, 56)
    got = block_means(x, (5, 4))
    rows = [0, 4, 9, 13, 18, 23]
    for i, (a, b) in enumerate(itertools.pairwise(rows)):
        for j in range(4):
            torch.testing.assert_close(got[:, :, i, j], x[:, :, a:b, 14 * j : 14 * j + 14].mean((2, 3)))


def test_bi_woof_is_its_definition_block_by_block():
    """The double loop of the paper, with numpy's histogram."""
    x = flow(1, size=40)
    u, v = x[0, 0].numpy().astype(float), x[0, 1].numpy().astype(float)
    strain = optical_strain(x[:, 0], x[:, 1])[0].numpy()
    angle, magnitude = np.arctan2(v, u), np.hypot(u, v)
    parts = []
    for i in range(5):
        for j in range(5):
            block = np.s_[8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
            h, _ = np.histogram(angle[block], 8, (-np.pi, np.pi), weights=magnitude[block])
            parts.append(h / h.sum() * strain[block].mean())
    want = np.concatenate(parts)
    want /= np.linalg.norm(want)
    np.testing.assert_allclose(create_model("bi_woof").prepare(x)[0], want, atol=1e-6)


def test_bi_woof_does_not_see_the_size_of_the_motion_and_a_still_clip_is_zero():
    model, x = create_model("bi_woof"), flow()
    torch.testing.assert_close(model.prepare(3 * x), model.prepare(x), atol=1e-6, rtol=0)
    assert torch.equal(model.prepare(torch.zeros(1, 3, 56, 56)), torch.zeros(1, 200))
    given = torch.cat((x[:, :2], optical_strain(x[:, 0], x[:, 1])[:, None]), 1)
    torch.testing.assert_close(create_model("bi_woof", third="strain").prepare(given), model.prepare(x))


# --- LBP-TOP -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neighbours", [4, 8])
def test_patterns_of_every_plane_are_those_of_scikit_image(neighbours):
    feature = pytest.importorskip("skimage.feature")
    clip = np.random.default_rng(0).permutation(9 * 11 * 13).reshape(9, 11, 13)  # no two values equal
    for plane in lbp.PLANES:
        got = lbp.patterns(torch.from_numpy(clip).double(), plane, (1, 1, 1), neighbours).numpy()
        across, along = plane[0], plane[1]  # the cosine's axis are columns, the sine's rows
        turned = np.moveaxis(clip, (along, across), (1, 2))
        theirs = np.stack([feature.local_binary_pattern(p, neighbours, 1) for p in turned])[1:-1, 1:-1, 1:-1]
        np.testing.assert_array_equal(np.moveaxis(got, (along, across), (1, 2)), theirs)


@pytest.mark.parametrize(("neighbours", "bins"), [(4, 15), (8, 59)])
def test_uniform_patterns_have_a_bin_each_and_the_others_share_one(neighbours, bins):
    feature = pytest.importorskip("skimage.feature")
    image = np.random.default_rng(1).permutation(3600).reshape(60, 60)
    codes = feature.local_binary_pattern(image, neighbours, 1)[1:-1, 1:-1].astype(int)
    theirs = feature.local_binary_pattern(image, neighbours, 1, method="nri_uniform")[1:-1, 1:-1].astype(int)
    ours = lbp.uniform_table(neighbours)[codes]
    assert lbp.uniform_bins(neighbours) == bins == ours.max() + 1
    pairs = set(zip(ours.ravel().tolist(), theirs.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}), "one name for one pattern"


def test_a_flat_clip_is_one_pattern_however_its_values_round():
    model = create_model("lbp_top", radii=[1, 1, 2], blocks=[2, 3, 1])
    for value in (0.1, 77.3, 254.9):
        features = model.prepare(torch.full((1, 6, 20, 20), value)).view(18, 59)
        assert torch.equal(features.max(1).values, torch.ones(18))
        assert torch.equal(features.argmax(1), torch.full((18,), 57)), "all neighbours >= centre"


def test_histograms_are_counts_in_their_own_block_and_plane():
    """A clip whose left half flickers: only blocks there, and only planes with time in them, may change."""
    g = torch.Generator().manual_seed(0)
    still = torch.randint(0, 200, (1, 1, 24, 24), generator=g).repeat(1, 7, 1, 1)
    moving = still.clone()
    moving[:, ::2, :, :10] += 50
    model = create_model("lbp_top", radii=[1, 1, 1], blocks=[2, 2, 1])
    a, b = (model.prepare(x).view(3, 2, 2, 59) for x in (still, moving))
    torch.testing.assert_close(a.sum(-1), torch.ones(3, 2, 2))
    changed = (a != b).any(-1)
    assert changed[1:, :, 0].all(), "XT and YT on the left"
    assert not changed[1:, :, 1].any(), "nothing on the right"
    assert not changed[0, :, 1].any()


def test_a_clip_too_short_for_the_radii_says_what_would_do():
    with pytest.raises(DataError, match=r"8 frames: LBP-TOP needs 9 with these radii.*radii=\[1,1,1\] needs 3"):
        create_model("lbp_top").prepare(torch.zeros(1, 8, 30, 30))
    assert create_model("lbp_top").prepare(torch.zeros(1, 9, 30, 30)).shape == (1, 3 * 25 * 59)


# --- the SVM -------------------------------------------------------------------------------------------


def samples(classes, n=60, features=9, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % len(classes)
    x = rng.normal(size=(n, features)) + 0.8 * rng.normal(size=(len(classes), features))[y]
    return torch.from_numpy(x).float(), torch.from_numpy(np.asarray(classes)[y])


@pytest.mark.parametrize("classes", [(0, 1), (0, 1, 2), (2, 0), (1, 3, 6), tuple(range(7))])
@pytest.mark.parametrize("balanced", [False, True])
def test_decisions_are_those_of_scikit_learn_whatever_classes_occur(classes, balanced):
    svm = pytest.importorskip("sklearn.svm")
    x, y = samples(classes)
    y[:10] = classes[0]  # unequal classes
    head = SvmHead(9, 7)
    if balanced:
        head.weigh(y.bincount(minlength=7))
    head.fit(x, y, 1.0, standardise=False)
    theirs = svm.SVC(
        kernel="linear", C=1.0, break_ties=len(classes) > 2, class_weight="balanced" if balanced else None
    ).fit(x.double().numpy(), y.numpy())
    unseen, _ = samples(classes, seed=5)
    assert head.decide(head(unseen)).tolist() == theirs.predict(unseen.double().numpy()).tolist()
    assert set(head.decide(head(100 * torch.randn(50, 9))).tolist()) <= set(classes), "a class not seen never wins"


def test_one_class_alone_is_always_answered():
    head = SvmHead(4, 3)
    head.fit(torch.randn(5, 4), torch.ones(5, dtype=torch.int64), 1.0, standardise=False)
    assert head.decide(head(torch.randn(20, 4))).unique().tolist() == [1]


def test_standardising_is_folded_into_the_weights_and_uses_the_training_clips_alone():
    svm = pytest.importorskip("sklearn.svm")
    x, y = samples((0, 1, 2))
    x = x * torch.logspace(-3, 3, 9) + 5
    x[:, 4] = 7.0  # constant
    head = SvmHead(9, 3)
    head.fit(x, y, 1.0, standardise=True)
    mean, std = x.double().mean(0), x.double().std(0, correction=0)
    std[4] = 1.0
    theirs = svm.SVC(kernel="linear", C=1.0, break_ties=True).fit(((x - mean) / std).numpy(), y.numpy())
    unseen = x[:20] + 0.1
    assert head.decide(head(unseen)).tolist() == theirs.predict(((unseen - mean) / std).numpy()).tolist()


def test_fitting_twice_gives_the_same_numbers():
    x, y = samples((0, 1, 2))
    heads = [SvmHead(9, 3) for _ in range(2)]
    for head in heads:
        head.fit(x, y, 10.0, standardise=False)
    assert all(torch.equal(a, b) for a, b in zip(*(h.state_dict().values() for h in heads), strict=True))


@pytest.mark.parametrize("name", FITTED)
def test_a_fitted_model_learns_eight_clips_by_heart(name):
    model = create_model(name, **({"blocks": [3, 3, 1]} if name == "lbp_top" else {}))
    x = flow(8) if name == "bi_woof" else torch.randint(0, 256, (8, 9, 30, 30))
    target = torch.arange(8) % 3
    model.fit(model.prepare(x), target)
    assert torch.equal(model.head.decide(model(x)), target)


# --- settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FITTED)
def test_settings_of_epochs_are_refused_by_name_and_a_resumed_run_is_not(name):
    for option, value in (("epochs", 5), ("lr", 1e-3), ("flip", 0.5), ("batch_size", 8)):
        flag = "--" + option.replace("_", "-")
        with pytest.raises(UsageError, match=f"{flag}: {name} is fitted at once, not trained by epochs; leave {flag}"):
            resolved(TrainConfig(model=name, **{option: value}))
    with pytest.raises(UsageError, match=f"--select inner: {name} is fitted at once"):
        resolved(TrainConfig(model=name, select="inner"))
    once = resolved(TrainConfig(model=name))
    assert (once.epochs, once.scale, once.flip) == (1, "none", 0.0)
    assert resolved(once) == once


def test_a_dry_run_tells_that_there_are_no_epochs(made):
    text = "\n".join(run(made.work, "bi_woof", dry_run=True).lines())
    assert "bi_woof is fitted at once, without epochs" in text
    assert "learning rate" not in text
    assert "epochs=" not in text


def test_options_are_checked_by_name():
    for name, options, message in [
        ("bi_woof", {"blocks": [5]}, "must be two whole numbers"),
        ("bi_woof", {"c": 0}, "must be a number above 0"),
        ("bi_woof", {"standardise": 1}, "must be true or false"),
        ("lbp_top", {"radii": [1, 1]}, "radii=.* must be three whole numbers"),
        ("lbp_top", {"neighbours": 9}, "must be 4 to 8"),
        ("lbp_top", {"third": "strain"}, "has no option 'third'"),
    ]:
        with pytest.raises(UsageError, match=message):
            create_model(name, **options)
    assert [n for n in list_models() if model_info(n).trained_by == "fit"] == list(FITTED)


def test_without_scikit_learn_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(fitted_module, "find_spec", lambda name: None)
    with pytest.raises(MepipeError, match=r"bi_woof is fitted by scikit-learn.*pip install 'mepipe\[svm\]'"):
        resolved(TrainConfig(model="bi_woof"))


# --- runs ----------------------------------------------------------------------------------------------


def run(work, model, **options):
    return train_run(Workspace(work), TrainConfig(**{"model": model, "device": "cpu", "jobs": 1} | options))


@pytest.fixture(scope="module")
def sequences(made, tmp_path_factory):
    """The made-up corpus with all aligned frames kept. Read only."""
    from mepipe import get_corpus
    from mepipe.prepare import prepare_corpus

    work = shutil.copytree(made.work, tmp_path_factory.mktemp("sequences") / "work")
    prepare_corpus(Workspace(work), get_corpus("casme2"), made.raw, PrepareConfig(jobs=1, frames="all"))
    return work


def test_lbp_top_names_the_command_when_only_onset_and_apex_were_kept(own):
    with pytest.raises(
        DataError, match=r"only 2 aligned frames of \d+ are kept.*mepipe prepare casme2 RAW --frames all"
    ):
        run(own.work, "lbp_top")


@pytest.mark.parametrize("name", FITTED)
def test_a_run_of_a_fitted_model_is_a_run_like_any_other(name, sequences, made):
    """Predictions, metrics and weights; again: nothing is refitted; predict gives what the run wrote."""
    from mepipe import get_corpus
    from mepipe_model.predict import predict_clip

    outcome = run(sequences, name)
    rows, classes = read_predictions(outcome.folder / "predictions.csv")
    assert len(rows) == 9
    assert all(classes[np.argmax(r.probabilities)] == r.pred for r in rows)
    assert json.loads((outcome.folder / "metrics.json").read_text())["UF1"] == outcome.metrics["UF1"]
    fold = outcome.folder / "folds" / "casme2_sub01"
    assert {p.name for p in fold.iterdir()} == {
        "fold.json", "log.csv", "predictions.csv", "weights.json", "weights.safetensors",
    }  # fmt: skip
    before = (fold / "weights.safetensors").stat().st_mtime_ns
    assert run(sequences, name).metrics == outcome.metrics
    assert (fold / "weights.safetensors").stat().st_mtime_ns == before
    assert find_run(Workspace(sequences), outcome.folder.name).settings.model == name
    row = rows[0]
    clip = next(c for c in get_corpus("casme2").clips(made.raw) if (c.subject, c.name) == (row.subject, row.clip))
    answer = predict_clip(
        Workspace(sequences), outcome.folder.name, clip.frames, onset=clip.onset, apex=clip.apex, offset=clip.offset,
        fold=row.fold,
    )  # fmt: skip
    assert answer.prediction == row.pred
    assert list(answer.probabilities.values()) == pytest.approx(row.probabilities, abs=5e-3)


def test_nothing_of_the_test_subject_reaches_a_fit(sequences, tmp_path):
    """Its flow and frames are replaced by ones that shout; weights with a scaler and class weights must not change."""
    from safetensors.torch import load_file

    from mepipe.shards import open_shards, write_shard

    other = shutil.copytree(sequences, tmp_path / "work")
    shards = open_shards(Workspace(other).flow)
    flows = shards.read_all()
    for i, s in enumerate(shards.samples):
        if s.subject == "sub02":
            flows[i] = 50.0 * (1 + len(s.label3))
    write_shard(Workspace(other).flow / "casme2-00000.h5", shards.samples, flows, engine=shards.engine,
                parameters=shards.parameters, versions=shards.versions)  # fmt: skip
    for image in (Workspace(other).prepared("casme2") / "sub02").rglob("*.png"):
        first = next((Workspace(other).prepared("casme2") / "sub01").rglob("*.png"))
        shutil.copy(first, image)
    for name in FITTED:
        settings = {"folds": "casme2_sub02", "class_weights": "balanced", "options": ("standardise=true",)}
        fair, planted = (run(work, name, run=f"planted-{name}", **settings) for work in (sequences, other))
        a, b = (load_file(o.folder / "folds/casme2_sub02/weights.safetensors") for o in (fair, planted))
        assert all(torch.equal(a[k], b[k]) for k in a), name
        assert read_predictions(fair.folder / "predictions.csv") != read_predictions(planted.folder / "predictions.csv")


def test_bi_woof_refuses_arrays_that_have_lost_their_zero(tmp_path):
    from mepipe.shards.importing import import_npz

    rng = np.random.default_rng(0)
    n = 6
    np.savez(
        tmp_path / "a.npz", flow=rng.integers(0, 256, (n, 3, 28, 28)).astype(np.uint8), corpus=["casme2"] * n,
        subject=[f"sub{i % 3:02d}" for i in range(n)], clip=[f"c{i}" for i in range(n)],
        label3=["negative", "positive", "surprise"] * 2,
    )  # fmt: skip
    ws = Workspace(tmp_path / "work")
    import_npz(ws.flow, tmp_path / "a.npz", ("u", "v", "strain"), False)
    with pytest.raises(DataError, match=r"bi_woof needs the flow's direction.*normalised.*run|compute flow"):
        run(ws.root, "bi_woof")
