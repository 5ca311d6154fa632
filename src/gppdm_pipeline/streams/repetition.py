"""Class-incremental learning with repetition: classes that were learnt come back.

After Hemati et al. 2023, "Class-incremental learning with repetition" (arXiv 2301.11396): when a
class first appears and whether it is repeated are two processes. Here the first is even and the
second independent draws, so that a stream is told by three numbers. What that paper calls an
experience is a task here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, PositiveInt

from gppdm_pipeline.configuration.base import Config

# Keep the random choices apart that start from one seed (see also scenario.py).
_SCHEDULE_SEED = 3
_DEAL_SEED = 4

Probability = Annotated[float, Field(ge=0, le=1)]


class RepetitionConfig(Config):
    """A stream in which every class appears once at least, and may come back.

    Of C classes in E experiences, class j of the class order (from 0) is new in experience
    1 + floor(j E / C): the new classes are spread evenly. To them come classes seen before, each
    with its probability, independently in every experience. Where that would make more than
    `classes_per_experience`, as many as there is room for are kept at random; where it would leave
    an experience without a class, one of those seen is taken at random.

    Attributes:
        experiences: E.
        probability: that a class seen comes back in an experience: one for all, or by the name of
            the class; a class that is not named does not come back.
        classes_per_experience: at most so many, new ones included; None: no limit.
        further: so many more experiences behind these, without new classes. Whatever their number,
            those before them stay the same.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    experiences: PositiveInt
    probability: Probability | dict[str, Probability]
    classes_per_experience: PositiveInt | None = None
    further: PositiveInt | None = None

    @property
    def total(self) -> int:
        """The number of experiences, further ones included."""
        return self.experiences + (self.further or 0)

    def probabilities(self, names: Sequence[str]) -> NDArray[np.float64]:
        """By label: float64 [len(names)]."""
        if isinstance(self.probability, Mapping):
            return np.array([self.probability.get(name, 0.0) for name in names])
        return np.full(len(names), self.probability)


def schedule(
    config: RepetitionConfig, order: Sequence[int], names: Sequence[str], seed: int
) -> tuple[tuple[int, ...], ...]:
    """The classes of each experience: the new ones in the class order, then those that come back.

    Args:
        config: of the stream.
        order: the labels in their class order, each once.
        names: of the labels.
        seed: the run's.
    """
    probabilities = config.probabilities(names)
    rng = np.random.default_rng([seed, _SCHEDULE_SEED])
    experiences, seen = [], list[int]()
    for number in range(config.total):
        new = [k for j, k in enumerate(order) if j * config.experiences // len(order) == number]
        drawn = rng.random(len(names))  # of every class, so that no class shifts another's draws
        back = [label for label in seen if drawn[label] < probabilities[label]]
        room = (config.classes_per_experience or len(names)) - len(new)
        if len(back) > room:
            back = sorted(rng.choice(back, room, replace=False).tolist())
        if not new and not back:
            back = [int(rng.choice(seen))]
        experiences.append((*new, *sorted(back)))
        seen += new
    return tuple(experiences)


def most_new_classes(experiences: int, classes: int) -> int:
    """Of one experience."""
    return -(-classes // experiences)


def divide(
    members: NDArray[np.int64], label: int, occurrences: int, which: int, seed: int
) -> NDArray[np.int64]:
    """One occurrence's share of a class's images: equal (within 1), disjoint, ascending.

    Args:
        members: indices of the class's images.
        label: of the class.
        occurrences: how often the class comes; at most len(members).
        which: from 0.
        seed: the run's.
    """
    shuffled = np.random.default_rng([seed, _DEAL_SEED, label]).permutation(members)
    return np.sort(np.array_split(shuffled, occurrences)[which])


def draw(
    members: NDArray[np.int64], label: int, count: int, task: int, seed: int
) -> NDArray[np.int64]:
    """`count` of a class's images at random (all, if it has fewer), drawn anew for every task."""
    rng = np.random.default_rng([seed, _DEAL_SEED, label, task])
    return np.sort(rng.permutation(members)[:count])


def first_seen(tasks: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Of each task, the classes that no earlier one has; together every class once."""
    seen: set[int] = set()
    cohorts = []
    for classes in tasks:
        cohorts.append(tuple(label for label in classes if label not in seen))
        seen.update(classes)
    return tuple(cohorts)


Returning = Literal["divide"] | PositiveInt
"""How the training images of a class are dealt out when it comes more than once: divided among its
occurrences, no image twice; or so many drawn for every occurrence of any class, in which an image
may come again in another one."""
