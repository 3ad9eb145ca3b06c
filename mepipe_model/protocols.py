"""How subjects are split: every protocol is a list of folds, and no subject is on both sides of one.

A subject is a (corpus, subject) pair: ``sub01`` of one corpus is not ``s1`` of another.
"""

from __future__ import annotations

import hashlib
import re
import typing
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mepipe.errors import DataError, UsageError
from mepipe.registry import Registry
from mepipe.shards import Sample


@dataclass(frozen=True)
class Fold:
    """One training: ``train`` and ``test`` are positions in the sample list."""

    id: str
    train: tuple[int, ...]
    test: tuple[int, ...]


FOLD_SPLIT = re.compile(r"fold[0-9]+")  # how a sample's split names a fold of its corpus
LEAKY = "random-leaky"  # the only protocol under which a person may be in training and in test

Protocol = Callable[..., list[Fold]]
PROTOCOLS: Registry[Protocol] = Registry("protocol")


class OfSubject(typing.Protocol):
    """What has a subject: a Sample of a shard, a Prediction."""

    @property
    def corpus(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def clip(self) -> str: ...


def subject_of(sample: OfSubject) -> str:
    """``<corpus>_<subject>``, which is also the fold id of LOSO.

    Where the corpus does not say who is seen, every clip stands for itself, and the frames of one together.
    """
    return f"{sample.corpus}_{sample.subject or sample.clip.rsplit('#', 1)[0]}"


def make_folds(protocol: str, samples: Sequence[Sample], *, k: int = 5, seed: int = 0) -> list[Fold]:
    """The folds of ``protocol`` over ``samples``. Raises DataError when they cannot be formed."""
    folds = PROTOCOLS.get(protocol)(samples, k=k, seed=seed)
    if protocol == LEAKY:
        return folds
    for fold in folds:
        shared = {subject_of(samples[i]) for i in fold.train} & {subject_of(samples[i]) for i in fold.test}
        if shared:
            raise DataError(f"fold {fold.id}: {', '.join(sorted(shared))} in training and in test")
    return folds


@PROTOCOLS.register("loso")
def loso(samples: Sequence[Sample], **_: int) -> list[Fold]:
    """Leave one subject out: one fold per subject, in order of first appearance."""
    if unknown := sorted({s.corpus for s in samples if not s.subject}):
        what = f"{', '.join(unknown)} does not say who is seen: no subject can be left out"
        raise DataError(what, do="use --protocol holdout, or kfold over its clips")
    subjects = list(dict.fromkeys(map(subject_of, samples)))
    if len(subjects) < 2:
        raise DataError(f"leave-one-subject-out needs two subjects, there is {len(subjects)}", do="add data")
    return [_fold(samples, s, {s}) for s in subjects]


@PROTOCOLS.register("kfold")
def kfold(samples: Sequence[Sample], *, k: int, seed: int) -> list[Fold]:
    """K groups of whole subjects, of nearly equal numbers of clips; which goes where depends on ``seed``."""
    sizes = Counter(map(subject_of, samples))
    if len(sizes) < k:
        raise DataError(f"{k} folds need {k} subjects, there are {len(sizes)}", do="lower --k")
    groups: list[set[str]] = [set() for _ in range(k)]
    for subject in sorted(sizes, key=lambda s: (-sizes[s], shuffled(s, seed))):
        min(groups, key=lambda g: (sum(sizes[s] for s in g), len(g))).add(subject)
    return [_fold(samples, f"kfold_{n}", group) for n, group in enumerate(groups, start=1)]


@PROTOCOLS.register("cross")
def cross(samples: Sequence[Sample], **_: int) -> list[Fold]:
    """Leave one corpus out: one fold per corpus, named by the corpus that is tested, trained on all others.

    A corpus's own split is not looked at: all its clips are trained on, or all tested.  Whether one person is in
    two corpora cannot be known: subjects have no names across corpora.
    """
    corpora = list(dict.fromkeys(s.corpus for s in samples))
    if len(corpora) < 2:
        what = f"--protocol cross needs clips of two corpora, there are {' and '.join(corpora) or 'none'}"
        raise DataError(what, do="name several with --data")
    return [_fold(samples, c, {subject_of(s) for s in samples if s.corpus == c}) for c in corpora]


def only_corpus(folds: list[Fold], protocol: str, corpus: str | None) -> list[Fold]:
    """``folds``, or of --protocol cross the one that tests on ``corpus``. Raises UsageError for another request."""
    if corpus is None:
        return folds
    if protocol != "cross":
        raise UsageError(f"--test-corpus {corpus} goes with --protocol cross, not with {protocol}")
    if not (picked := [f for f in folds if f.id == corpus]):
        raise UsageError(f"--test-corpus: no clips of {corpus!r}", do=f"valid: {', '.join(f.id for f in folds)}")
    return picked


@PROTOCOLS.register("holdout")
def holdout(samples: Sequence[Sample], **_: int) -> list[Fold]:
    """The corpus's own split: train on ``train``, test on every other part (DFME: A and B).

    A part ``val`` (FERPlus) is neither trained on nor tested, and folds (DFEW) are no parts.
    """
    train = tuple(i for i, s in enumerate(samples) if s.split == "train")
    aside = ("", "train", "val")
    test = tuple(i for i, s in enumerate(samples) if s.split not in aside and not FOLD_SPLIT.fullmatch(s.split))
    if not train or not test:
        raise DataError("these corpora have no train/test split", do="use --protocol loso or kfold")
    return [Fold("holdout", train, test)]


@PROTOCOLS.register("folds")
def own_folds(samples: Sequence[Sample], **_: int) -> list[Fold]:
    """The corpus's own folds (DFEW's five): each clip is tested in the fold that its split names, and trained on in all
    others.
    """
    names = sorted({s.split for s in samples}, key=lambda name: (len(name), name))
    if len(names) < 2 or not all(FOLD_SPLIT.fullmatch(name) for name in names):
        raise DataError("these corpora have no folds of their own", do="use --protocol holdout, loso or kfold")
    out = []
    for name in names:
        train = tuple(i for i, s in enumerate(samples) if s.split != name)
        out.append(Fold(name, train, tuple(i for i, s in enumerate(samples) if s.split == name)))
    return out


@PROTOCOLS.register(LEAKY)
def random_leaky(samples: Sequence[Sample], *, k: int, seed: int) -> list[Fold]:
    """K groups of samples at random, whoever is seen: frames of one clip are on both sides.

    It is what a published 97 % on DEAP may rest on; its scores say how well a person is recognised again.
    """
    order = sorted(range(len(samples)), key=lambda i: shuffled(f"{samples[i]}", seed))
    if len(order) < k:
        raise DataError(f"{k} folds need {k} samples, there are {len(order)}", do="lower --k")
    groups = [sorted(order[n::k]) for n in range(k)]
    return [
        Fold(f"{LEAKY}_{n}", tuple(sorted(set(order) - set(group))), tuple(group)) for n, group in enumerate(groups, 1)
    ]


def named_parts(samples: Sequence[Sample], folds: Sequence[Fold]) -> dict[str, str]:
    """Subject -> part of the test set, where its corpus names several (DFME: testA, testB); {} where not.

    Raises DataError for a subject with test clips in two parts, since parts are scored apart.
    """
    parts: dict[str, str] = {}
    for s in (samples[i] for fold in folds for i in fold.test if samples[i].split not in ("", "train")):
        if parts.setdefault(subject_of(s), s.split) != s.split:
            raise DataError(f"{subject_of(s)} is in {parts[subject_of(s)]} and in {s.split}")
    return parts if len(set(parts.values())) > 1 else {}


def unseen_classes(fold: Fold, targets: Sequence[int]) -> list[int]:
    """Classes that ``fold`` tests without a single training clip: no model can learn them there."""
    return sorted({targets[i] for i in fold.test} - {targets[i] for i in fold.train})


def inner_split(samples: Sequence[Sample], train: Sequence[int], seed: int, share: float = 0.15) -> Fold:
    """A subject-disjoint validation set inside a training set: about ``share`` of its subjects, at least one.

    Raises DataError when the training set has a single subject.
    """
    subjects = sorted({subject_of(samples[i]) for i in train}, key=lambda s: shuffled(s, seed))
    if len(subjects) < 2:
        raise DataError("an inner validation needs two training subjects", do="use --select fixed")
    held = set(subjects[: max(1, round(share * len(subjects)))])
    inside = tuple(i for i in train if subject_of(samples[i]) not in held)
    return Fold("inner", inside, tuple(i for i in train if subject_of(samples[i]) in held))


def chosen(folds: list[Fold], wanted: str | None) -> list[Fold]:
    """The folds of ``--folds``: ids or 1-based numbers, comma separated. Raises UsageError for others."""
    if wanted is None:
        return folds
    by_name = {f.id: f for f in folds} | {str(n): f for n, f in enumerate(folds, start=1)}
    picked = []
    for word in filter(None, (w.strip() for w in wanted.split(","))):
        if word not in by_name:
            some = ", ".join(f.id for f in folds[:6])
            raise UsageError(f"--folds: there is no fold {word!r}", do=f"valid: 1 to {len(folds)}, or {some}, ...")
        picked.append(by_name[word])
    if not picked:
        raise UsageError("--folds names no fold", do=f"valid: 1 to {len(folds)}, or leave it out")
    return list(dict.fromkeys(picked))


def shuffled(name: str, seed: int) -> str:
    """A sort key that orders names at random, the same on every machine."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _fold(samples: Sequence[Sample], name: str, held: set[str]) -> Fold:
    inside = [subject_of(s) in held for s in samples]
    train = tuple(i for i, held_out in enumerate(inside) if not held_out)
    return Fold(name, train, tuple(i for i, held_out in enumerate(inside) if held_out))
