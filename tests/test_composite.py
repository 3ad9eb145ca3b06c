from __future__ import annotations

import csv
from collections import Counter

import pytest
import tiny

import data_manifests
from mepipe import get_corpus
from mepipe.datasets import composite
from mepipe.datasets.composite import COMPOSITES, Member, check_manifest, key, members, of_corpus, select
from mepipe.errors import DataError, UsageError
from mepipe.shards import Sample

LABELS = ("negative", "positive", "surprise")


def samples(listed=None) -> list[Sample]:
    return [Sample(m.corpus, m.subject, m.clip, label3=m.label3) for m in (members() if listed is None else listed)]


def test_the_manifest_has_every_published_count():
    check_manifest("3db")
    listed = members("3db")
    assert len(listed) == 442
    assert Counter(m.label3 for m in listed) == {"negative": 250, "positive": 109, "surprise": 83}
    assert Counter(m.corpus for m in listed) == {"casme2": 145, "samm": 133, "smic-hs": 164}
    assert Counter(c for c, _ in {(m.corpus, m.subject) for m in listed}) == {"casme2": 24, "samm": 28, "smic-hs": 16}
    table = Counter((m.corpus, m.label3) for m in listed)
    assert [[table[c, label] for label in LABELS] for c in ("smic-hs", "casme2", "samm")] == [
        [70, 51, 43], [88, 32, 25], [92, 26, 15],
    ]  # fmt: skip


def test_the_manifest_is_the_official_list(real_data):
    with (real_data / "megc2019_combined_3class_gt.csv").open(newline="") as f:
        official = [("smic-hs" if db == "smic" else db, s, c, LABELS[int(n)]) for db, s, c, n in csv.reader(f)]
    assert [(*key(m), m.label3) for m in members()] == [
        (*key(Member(c, s, n, "")), label) for c, s, n, label in official
    ]


def test_known_pitfalls_of_other_lists():
    """What public copies of the list leave out or put in by mistake."""
    ids = {(m.corpus, m.subject, m.clip): m.label3 for m in members()}
    assert ids["samm", "032", "032_3_1"] == "negative"
    assert ids["samm", "028", "028_4_1"] == "negative"
    assert ids["casme2", "sub05", "EP12_03f"] == "surprise"
    assert ids["smic-hs", "s18", "s18_sur_03"] == "surprise"
    out = (
        ("sub04", "EP12_01f"),
        ("sub05", "EP09_05f"),
        ("sub24", "EP07_01"),
        ("sub24", "EP07_04f"),
        ("sub24", "EP10_03"),
    )
    assert not {("casme2", *o) for o in (*out, ("sub24", "EP02_07"))} & set(ids)
    assert {f"s{n}" for n in (1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 18, 19, 20)} == {
        s for c, s, _ in ids if c == "smic-hs"
    }


def test_a_changed_manifest_is_refused_with_every_number_that_differs(monkeypatch):
    rows = data_manifests.rows("megc2019_3db")
    monkeypatch.setattr(data_manifests, "rows", lambda table: [*rows[:-1], rows[0]])
    composite.members.cache_clear()
    try:
        with pytest.raises(DataError, match=r"different clips 441, published 442; corpora .*'samm': 132.*install"):
            check_manifest("3db")
    finally:
        composite.members.cache_clear()


def test_select_finds_all_whatever_else_and_in_whatever_order_the_samples_are():
    given = [Sample("dfme", "sub0001", "sub0001_01"), *reversed(samples()), Sample("casme2", "sub04", "EP12_01f")]
    found = select("3db", given)
    assert found.missing == ()
    assert [given[i].clip for i in found.indices] == [m.clip for m in members()]
    assert found.labels == tuple(m.label3 for m in members())
    assert found.lines() == ["3db: all 442 clips"]


def test_select_compares_ids_whatever_their_spelling():
    given = [Sample("smic-hs", "s01", "s01_ne_01"), Sample("samm", "6", "006_1_2"), Sample("casme2", "1", "ep02_01f")]
    found = select("3db", given)
    assert sorted(found.indices) == [0, 1, 2]
    assert len(found.missing) == 439


def test_labels_are_those_of_the_list_not_of_the_annotation():
    given = [Sample("smic-hs", "s18", "s18_sur_03", label3="negative")]
    assert select("3db", given).labels == ("surprise",)


def test_clips_of_other_cameras_are_no_members():
    assert select("3db", [Sample("smic-vis", "s11", "s11_ne_01")]).indices == ()


def test_missing_members_are_named():
    given = [s for s in samples() if s.clip != "EP02_01f" or s.subject != "sub01"]
    found = select("3db", given)
    assert found.lines() == ["3db: 441 of 442 clips", "  missing casme2 sub01/EP02_01f (positive)"]
    assert select("3db", []).lines(most=2)[-1] == "  missing ... and 440 more"


def test_a_clip_that_is_there_twice_is_an_error_not_a_double_weight():
    with pytest.raises(DataError, match="casme2 1/EP02_01f is there twice"):
        select("3db", [Sample("casme2", "sub01", "EP02_01f"), Sample("casme2", "1", "EP02_01f")])


def test_an_unknown_composite_lists_the_known_ones():
    with pytest.raises(UsageError, match="no composite is called '4db'; did you mean '3db'"):
        select("4db", [])


def test_a_corpus_knows_its_composites():
    assert {name: len(part) for name, part in of_corpus("samm").items()} == {"3db": 133}
    assert of_corpus("dfme") == {}
    assert COMPOSITES.get("3db").subjects == 68


def test_the_real_annotations_give_all_442_members(tmp_path, real_data):
    """Three corpora in their layouts with the real rows and tiny frames: read, then selected."""
    columns = ("OnsetFrame", "ApexFrame", "OffsetFrame")
    tables = {c: tiny.rows_of(real_data / f"slstt_{c}_coding.csv") for c in ("casme2", "samm", "smic")}

    def rows(corpus: str) -> list[tuple]:
        return [(r["Subject"], r["Filename"], *(int(r[n]) for n in columns), r["Emotion"]) for r in tables[corpus]]

    tiny.casme2(tmp_path / "casme2", rows("casme2"), edition="20190701")
    tiny.samm(tmp_path / "samm", rows("samm"))
    tiny.smic(tmp_path / "smic-hs", [(name, onset, offset, e) for _, name, onset, _, offset, e in rows("smic")])
    clips = [c for corpus in ("casme2", "samm", "smic-hs") for c in get_corpus(corpus).clips(tmp_path / corpus)]
    assert len(clips) == 255 + 159 + 164
    found = select("3db", [Sample(c.corpus, c.subject, c.name, label3=c.label3) for c in clips])
    assert found.missing == ()
    assert all(clips[i].label3 == label for i, label in zip(found.indices, found.labels, strict=True))
    assert not any(clips[i].problem for i in found.indices)
    assert len({(clips[i].corpus, clips[i].subject) for i in found.indices}) == 68
