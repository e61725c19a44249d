"""Class labels of several sets of images, brought to one numbering by the names of the classes.

A label is a number, and what it means is a matter of names: folders are numbered in the order of their names, which
changes when one is renamed, added or written without leading zeros. Names of digits alone are numbers themselves, as
samplers write `0/` to `999/`, and mean the class of that number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Samples
from genbench.contracts import Classifier
from genbench.errors import InputRejected

_LARGEST = 1 << 31
"""No class has a number as large."""
_NAMED = 100_000
"""Most classes that are named after their numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """Sets of images with one numbering of classes.

    Attributes:
        roles: the sets; unchanged where the labels cannot be brought together.
        problem: why they cannot, in a sentence, empty where they can, or where there are none.
        notes: sentences about what was taken for granted.
    """

    roles: dict[str, Samples | None]
    problem: str = ""
    notes: tuple[str, ...] = ()


def in_order(names: Sequence[str]) -> list[str]:
    """Names of classes in the order of their numbers: names of digits alone as numbers, others as text."""
    return sorted(names, key=lambda name: (int(name), name)) if _numbers(names) else sorted(names)


def _numbers(names: Sequence[str]) -> list[int]:
    """The numbers that the names are, empty where one of them is no number, or two are the same."""
    if not all(name.isascii() and name.isdecimal() and len(name) < 11 for name in names):
        return []
    found = [int(name) for name in names]
    return found if len(set(found)) == len(found) and max(found, default=0) < _LARGEST else []


def _class_numbers(samples: Samples) -> NDArray[np.int64]:
    """The labels, or the numbers that the classes' names are."""
    assert samples.labels is not None
    numbers = _numbers(samples.classes)
    return np.array(numbers, np.int64)[samples.labels] if numbers else samples.labels


def _is_named(samples: Samples | None) -> bool:
    return (
        samples is not None and samples.labels is not None and bool(samples.classes and not _numbers(samples.classes))
    )


def aligned(roles: Mapping[str, Samples | None], classes: tuple[str, ...] = ()) -> Aligned:
    """The same sets with labels that count in one list of classes.

    Args:
        roles: sets by role. Those of None or without labels are passed through.
        classes: of the data set, whose order counts; empty takes those of the reference, else of another set.

    Returns:
        Where any set has names, its names decide: sets with names must have the same ones, in whatever order, and
        numbers without names must lie within the list. Sets of numbers keep their numbers.
    """
    labelled = {role: s for role, s in roles.items() if s is not None and s.labels is not None}
    firsts = [r for r in ("reference", "test", "floor_reference", "floor_held_out", "generated") if r in labelled]
    named = [labelled[role] for role in firsts if _is_named(labelled[role])]
    owner = "the data set" if classes and not _numbers(classes) else named[0].origin if named else ""
    if classes and not _numbers(classes):
        names = classes
    elif named:
        names = named[0].classes
    else:
        return _of_numbers(roles, labelled)
    found, notes = dict(roles), []
    for role, samples in labelled.items():
        assert samples.labels is not None
        if samples.classes and samples.labels.max(initial=0) >= len(samples.classes):
            problem = (
                f"The labels of {samples.origin} go up to {samples.labels.max()}, and it has {len(samples.classes)} "
                f"classes, {_listed(samples.classes)}."
            )
            return Aligned(roles=dict(roles), problem=problem)
        if _is_named(samples):
            if problem := _difference(samples.origin, samples.classes, owner, names):
                return Aligned(roles=dict(roles), problem=problem)
            place = np.array([names.index(name) for name in samples.classes], np.int64)
            numbers = place[samples.labels]
        else:
            numbers = _class_numbers(samples)
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(names):
                return Aligned(
                    roles=dict(roles),
                    problem=f"The labels of {samples.origin} are numbers from {numbers.min()} to {numbers.max()}, and "
                    f"{owner} has {len(names)} classes, {_listed(names)}. Number the images by these, from 0.",
                )
            notes.append(
                f"The labels of {samples.origin} are numbers without names: 0 is taken for {names[0]!r}, and so on in "
                f"the order of the classes of {owner} ({_listed(names)})."
            )
        found[role] = replace(samples, labels=numbers, classes=names)
    return Aligned(roles=found, notes=tuple(dict.fromkeys(notes)))


def _of_numbers(roles: Mapping[str, Samples | None], labelled: Mapping[str, Samples]) -> Aligned:
    """The sets by number, where no names are but numbers."""
    known = {role: set(_numbers(s.classes)) for role, s in labelled.items() if s.classes}
    for role, numbers in known.items():
        for other, samples in labelled.items():
            theirs = known.get(other, set(np.unique(_class_numbers(samples)).tolist()))
            if theirs != numbers if other in known else not theirs <= numbers:
                few, many = labelled[role].origin, samples.origin
                return Aligned(
                    roles=dict(roles),
                    problem=f"The classes of {few} are numbered {_listed(sorted(map(str, numbers), key=int))}, those "
                    f"of {many} {_listed(sorted(map(str, theirs), key=int))}. Give both the same classes.",
                )
    stop = 1 + max((max(numbers) for numbers in known.values()), default=-1)
    names = tuple(map(str, range(stop))) if stop <= _NAMED else ()
    found = {role: replace(s, labels=_class_numbers(s), classes=names) for role, s in labelled.items()}
    return Aligned(roles={**roles, **found})


def _difference(mine: str, names: Sequence[str], owner: str, theirs: Sequence[str]) -> str:
    """What one list of names has and the other has not, in a sentence, empty where they are the same."""
    more, fewer = [n for n in names if n not in set(theirs)], [n for n in theirs if n not in set(names)]
    if not more and not fewer:
        return ""
    parts = [f"{_listed(more)} only in {mine}"] * bool(more) + [f"{_listed(fewer)} only in {owner}"] * bool(fewer)
    return f"The classes of {mine} are not those of {owner}: {'; '.join(parts)}. Name the classes of both alike."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")


def of_classifier(samples: Samples, classifier: Classifier) -> tuple[NDArray[np.int64], str]:
    """Labels as the classifier counts its classes, and a sentence about what was taken for granted.

    Returns:
        int64 (count,), in [0, classifier.count), and a note or "".

    Raises:
        InputRejected: no labels, names that the classifier does not know, or a number of classes that cannot be its.
    """
    if samples.labels is None:
        raise InputRejected(f"{samples.origin} has no labels.")
    known = classifier.classes
    if _is_named(samples):
        unknown = [name for name in samples.classes if name not in set(known)]
        if known and not unknown:
            return np.array([known.index(name) for name in samples.classes], np.int64)[samples.labels], ""
        if known:
            raise InputRejected(
                f"The classifier knows no class {_listed(unknown)} of {samples.origin}; its {len(known)} classes are "
                f"{_listed(known)}."
            )
        if len(samples.classes) != classifier.count:
            raise InputRejected(
                f"{samples.origin} has {len(samples.classes)} classes, {_listed(samples.classes)}, and the classifier "
                f"{classifier.count} without names; name the folders by the numbers of its classes, from 0."
            )
        return samples.labels, (
            f"The classes of {samples.origin} are taken for the classifier's in the order of their names: "
            f"{_listed(samples.classes)}."
        )
    numbers = _class_numbers(samples)
    if numbers.min() < 0 or numbers.max() >= classifier.count:
        raise InputRejected(
            f"The labels of {samples.origin} lie in [{numbers.min()}, {numbers.max()}], and the classifier has "
            f"{classifier.count} classes, counted from 0; use one that was trained on these classes."
        )
    return numbers, ""
