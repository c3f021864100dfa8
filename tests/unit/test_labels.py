"""Label names."""

from audioclf import labels


def test_names_that_differ_in_case_and_punctuation_alone_are_alike() -> None:
    names = ["dog_bark", "Dog bark", "dogs bark", "Siren", "siren ", "C++", "C", "?", "!"]
    assert labels.alike(names) == [["C", "C++"], ["Dog bark", "dog_bark"], ["Siren", "siren "]]
