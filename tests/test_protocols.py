from __future__ import annotations

from collections import Counter

import pytest

from mepipe.errors import DataError, UsageError
from mepipe.shards import Sample
from mepipe_model.protocols import (
    PROTOCOLS,
    chosen,
    inner_split,
    make_folds,
    named_parts,
    only_corpus,
    subject_of,
    unseen_classes,
)


def samples(sizes: dict[str, int], split: dict[str, str] | None = None) -> list[Sample]:
    out = []
    for name, n in sizes.items():
        corpus, subject = name.split("/")
        out += [Sample(corpus, subject, f"c{i}", split=(split or {}).get(name, "")) for i in range(n)]
    return out


DATA = samples({"casme2/sub01": 9, "smic-hs/s1": 4, "samm/006": 12, "casme2/sub02": 1, "smic-hs/sub01": 3})


@pytest.mark.parametrize("protocol", ["loso", "kfold", "cross"])
def test_every_clip_is_tested_once_and_never_by_a_model_that_saw_its_subject(protocol):
    folds = make_folds(protocol, DATA, k=3)
    assert Counter(i for f in folds for i in f.test) == dict.fromkeys(range(len(DATA)), 1)
    for f in folds:
        assert not {subject_of(DATA[i]) for i in f.train} & {subject_of(DATA[i]) for i in f.test}
        assert len(f.train) + len(f.test) == len(DATA)


def test_loso_folds_are_corpus_and_subject_so_equal_names_do_not_collide():
    names = [f.id for f in make_folds("loso", DATA)]
    assert names == ["casme2_sub01", "smic-hs_s1", "samm_006", "casme2_sub02", "smic-hs_sub01"]


def test_kfold_is_balanced_and_depends_on_the_seed_only():
    many = samples({f"casme2/sub{i:02d}": 1 + i % 7 for i in range(24)})
    folds = make_folds("kfold", many, k=4, seed=1)
    sizes = [len(f.test) for f in folds]
    assert max(sizes) - min(sizes) <= 2
    assert folds == make_folds("kfold", many, k=4, seed=1)
    assert folds != make_folds("kfold", many, k=4, seed=2)
    with pytest.raises(DataError, match="there are 5"):
        make_folds("kfold", DATA, k=6)


def test_holdout_uses_the_corpus_own_split():
    data = samples({"dfme/a": 3, "dfme/b": 2, "dfme/c": 1}, {"dfme/a": "train", "dfme/b": "testA", "dfme/c": "testB"})
    (fold,) = make_folds("holdout", data)
    assert (fold.train, fold.test) == ((0, 1, 2), (3, 4, 5))
    with pytest.raises(DataError, match="no train/test split"):
        make_folds("holdout", DATA)


def test_cross_leaves_one_corpus_out_and_looks_at_no_split():
    data = DATA + samples({"dfme/a": 3, "dfme/b": 2}, {"dfme/a": "train", "dfme/b": "testA"})
    folds = make_folds("cross", data)
    assert [f.id for f in folds] == ["casme2", "smic-hs", "samm", "dfme"]
    for f in folds:
        assert {data[i].corpus for i in f.test} == {f.id}
        assert f.id not in {data[i].corpus for i in f.train}
    with pytest.raises(DataError, match="needs clips of two corpora, there are casme2"):
        make_folds("cross", samples({"casme2/sub01": 2, "casme2/sub02": 2}))


def test_one_corpus_can_be_named_to_be_tested():
    folds = make_folds("cross", DATA)
    assert [f.id for f in only_corpus(folds, "cross", "samm")] == ["samm"]
    assert only_corpus(folds, "cross", None) == folds
    with pytest.raises(UsageError, match="no clips of 'dfme'; valid: casme2, smic-hs, samm"):
        only_corpus(folds, "cross", "dfme")
    with pytest.raises(UsageError, match="goes with --protocol cross, not with loso"):
        only_corpus(make_folds("loso", DATA), "loso", "samm")


def test_a_class_without_a_training_clip_is_found():
    fold = make_folds("cross", samples({"casme2/a": 2, "samm/b": 3}))[1]
    assert unseen_classes(fold, [0, 1, 0, 2, 3]) == [2, 3]
    assert unseen_classes(fold, [0, 1, 0, 1, 0]) == []


def test_the_parts_of_a_test_set_are_known_by_subject_and_only_where_there_are_several():
    splits = {"dfme/a": "train", "dfme/b": "testA", "dfme/c": "testB"}
    data = samples(dict.fromkeys(splits, 2), splits)
    assert named_parts(data, make_folds("holdout", data)) == {"dfme_b": "testA", "dfme_c": "testB"}
    assert named_parts(DATA, make_folds("loso", DATA)) == {}
    both = [*data, Sample("dfme", "b", "other", split="testB")]
    with pytest.raises(DataError, match="dfme_b is in testA and in testB"):
        named_parts(both, make_folds("holdout", both))


def test_a_subject_on_both_sides_is_an_error():
    data = [Sample("dfme", "a", "1", split="train"), Sample("dfme", "a", "2", split="testA")]
    with pytest.raises(DataError, match="dfme_a in training and in test"):
        make_folds("holdout", data)


def test_one_subject_cannot_be_left_out():
    with pytest.raises(DataError, match="needs two subjects"):
        make_folds("loso", samples({"casme2/sub01": 5}))


def test_the_inner_validation_shares_no_subject_and_never_touches_the_test_subject():
    for fold in make_folds("loso", DATA):
        inner = inner_split(DATA, fold.train, seed=0)
        held, kept = ({subject_of(DATA[i]) for i in part} for part in (inner.test, inner.train))
        assert held
        assert kept
        assert not held & kept
        assert set(inner.train) | set(inner.test) == set(fold.train)


def test_folds_are_chosen_by_id_or_number():
    folds = make_folds("loso", DATA)
    assert [f.id for f in chosen(folds, "2, samm_006,2")] == ["smic-hs_s1", "samm_006"]
    assert chosen(folds, None) == folds
    with pytest.raises(UsageError, match=r"no fold '9'.*1 to 5"):
        chosen(folds, "9")


def test_protocols_are_the_ones_the_command_offers():
    from mepipe.settings import TrainConfig

    field = TrainConfig.__dataclass_fields__["protocol"]
    assert set(PROTOCOLS) == set(field.metadata["choices"])
