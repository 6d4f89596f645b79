"""Curves are judged and drawn as they were measured."""

from xml.etree import ElementTree

import pytest

from bench.growth.plot import draw, is_flat, relative

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("values", "flat"),
    [
        ([100.0], True),
        ([100.0, 120.0, 80.0], True),
        ([100.0, 121.0], False),
        ([100.0, 79.0, 100.0], False),
        ([0.0, 0.0], False),
    ],
)
def test_flat_means_within_a_fifth_of_the_first_value(values: list[float], flat: bool) -> None:
    assert is_flat(values) is flat


def test_values_are_relative_to_the_first_one() -> None:
    assert relative([4.0, 2.0, 8.0]) == [1.0, 0.5, 2.0]


def test_every_value_is_a_dot_where_it_belongs() -> None:
    picture = ElementTree.fromstring(
        draw("t", ["1", "10", "100"], {"up": [1, 2, 4], "even": [3] * 3})
    )
    dots = [
        (float(dot.get("cx", 0)), float(dot.get("cy", 0))) for dot in picture.iter(f"{SVG}circle")
    ]
    up, even = dots[:3], dots[3:]
    assert [x for x, _ in up] == sorted(x for x, _ in up)
    assert up[0][1] > up[1][1] > up[2][1]
    assert len({y for _, y in even}) == 1
    assert up[0][1] == even[0][1]
    assert all(0 <= y <= 380 for _, y in dots)


def test_names_are_escaped() -> None:
    picture = ElementTree.fromstring(draw("a < b & c", ["1", "2"], {"<x>": [1, 1]}))
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert "a < b & c" in texts
    assert "<x>" in texts
