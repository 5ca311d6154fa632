"""Classes as people write them: by name, with the nearest right spelling where one is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gppdm_pipeline.wording import nearest


def split_names(joined: str, names: Sequence[str]) -> tuple[str, ...]:
    """Undo `"-".join`, where names may hold a "-" themselves: the longest known name wins."""
    parts = joined.split("-")
    found: list[str] = []
    while parts:
        lengths = range(len(parts), 0, -1)
        length = next((k for k in lengths if "-".join(parts[:k]) in names), 1)
        found.append("-".join(parts[:length]))
        parts = parts[length:]
    return tuple(found)


def unknown_names(given: Iterable[str], names: Iterable[str]) -> list[str]:
    """What to say of each name given that is none of `names`: "unknown 'ct' (did you mean ...)"."""
    known = list(names)
    faults = []
    for name in dict.fromkeys(given):
        if name not in known:
            near = nearest(name, known)
            faults.append(f"unknown {name!r}" + (f" (did you mean {near!r}?)" if near else ""))
    return faults


def repeated_names(given: Sequence[str]) -> list[str]:
    """Each name that is there more than once."""
    return [name for name in dict.fromkeys(given) if given.count(name) > 1]
