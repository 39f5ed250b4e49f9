"""The vocabularies: numbered, disjoint, with parts of named wholes."""

import pytest

from pipeline.toyworld.composer import LOOKS
from pipeline.toyworld.world import WORLDS, classes


@pytest.mark.parametrize("world", WORLDS)
def test_ids_run_from_one_and_wholes_exist(world: str) -> None:
    known = classes(world)
    names = [c.name for c in known]
    assert [c.id for c in known] == list(range(1, len(known) + 1))
    assert len(set(names)) == len(names) >= 12
    assert all(whole in names for c in known for whole in c.part_of)
    assert any(c.part_of for c in known)
    assert all(c.synonyms for c in known)


@pytest.mark.parametrize("world", WORLDS)
def test_every_builder_draws_its_class(world: str) -> None:
    names = {c.name for c in classes(world)}
    assert set(LOOKS[world].builders) <= names
    assert set(LOOKS[world].groupable) <= set(LOOKS[world].builders)


def test_worlds_share_no_word_colour_or_background() -> None:
    words = [{w for c in classes(world) for w in (c.name, *c.synonyms)} for world in WORLDS]
    assert words[0].isdisjoint(words[1])
    assert set(LOOKS["demo"].palette).isdisjoint(LOOKS["pretrain"].palette)
    assert set(LOOKS["demo"].backgrounds).isdisjoint(LOOKS["pretrain"].backgrounds)


def test_unknown_world_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown world 'moon', expected one of demo, pretrain"):
        classes("moon")
