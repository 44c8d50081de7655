"""The sorted set of names against Python's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vfio_coordinator.scheduler.names import Names, smallest

texts = st.text(alphabet="abc", min_size=1, max_size=4)
changes = st.lists(st.tuples(st.booleans(), texts), max_size=60)


@given(changes)
def test_it_is_a_sorted_set(rows: list[tuple[bool, str]]) -> None:
    names, model = Names(), set[str]()
    for add, name in rows:
        before = tuple(names)
        changed = names.add(name) if add else names.remove(name)
        assert tuple(names) == before
        names = changed
        model = model | {name} if add else model - {name}
        assert tuple(names) == tuple(sorted(model))
        assert len(names) == len(model)
        assert all((one in names) == (one in model) for one in ("a", "b", "ca", name))


def test_large_sets_stay_sorted_in_small_chunks() -> None:
    names = Names()
    for number in range(3_000):
        names = names.add(f"n{number * 7919 % 3_000:05}")
    assert tuple(names) == tuple(f"n{number:05}" for number in range(3_000))
    assert max(map(len, names.chunks)) <= 128
    assert names.first == "n00000"
    assert names.head(2) == ("n00000", "n00001")
    for number in range(0, 3_000, 2):
        names = names.remove(f"n{number:05}")
    assert len(names) == 1_500
    assert all(names.chunks)


@given(st.lists(st.sets(texts), max_size=4), st.integers(0, 5))
def test_smallest_of_several(sets: list[set[str]], count: int) -> None:
    made = []
    for one in sets:
        names = Names()
        for name in one:
            names = names.add(name)
        made.append(names)
    made = [names for names in made if names]
    expected = sorted(name for one in sets for name in sorted(one)[:count])[:count]
    assert smallest(made, count) == tuple(expected)
