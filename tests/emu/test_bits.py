import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu import descriptors, paging
from emu.bits import Layout, Row, field, flag, split

LAYOUTS = [
    value
    for module in (paging, descriptors)
    for value in vars(module).values()
    if isinstance(value, Layout)
]

TOY = Layout(
    "toy",
    16,
    "nowhere",
    (
        flag("P", 0, "present"),
        field("KIND", 1, 2, "kind", names={0: "none", 2: "blue"}),
        split("SPLIT", ((4, 2), (10, 3)), "in two places"),
        field("PAGE", 13, 2, "page", scale=4, show_zero=True),
    ),
    ones=1 << 3,
)


def test_decode_names_every_field_in_order() -> None:
    word = 1 | 2 << 1 | 1 << 3 | 0b01 << 4 | 0b101 << 10 | 3 << 13
    assert list(TOY.decode(word).items()) == [
        ("P", 1),
        ("KIND", 2),
        ("SPLIT", 0b10101),
        ("PAGE", 0x30),
    ]
    assert TOY.get(word, "SPLIT") == 0b10101


def test_encode_sets_the_fixed_bits() -> None:
    assert TOY.encode() == 1 << 3
    assert TOY.encode(P=1, SPLIT=0b10101, PAGE=0x30) == 1 | 1 << 3 | 1 << 4 | 0b101 << 10 | 3 << 13


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"P": 2}, "toy: field P: 0x2 is outside 0..0x1"),
        ({"P": -1}, "toy: field P: -0x1 is outside 0..0x1"),
        ({"SPLIT": 32}, "toy: field SPLIT: 0x20 is outside 0..0x1f"),
        ({"PAGE": 0x40}, "toy: field PAGE: 0x40 is outside 0..0x30"),
        ({"PAGE": 0x11}, "toy: field PAGE: 0x11 is not a multiple of 0x10"),
    ],
)
def test_encode_refuses_what_does_not_fit(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.") + "$"):
        TOY.encode(**fields)


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(KeyError, match="layout toy has no field Q"):
        TOY.mask("Q")
    with pytest.raises(KeyError, match="layout toy has no field Q"):
        TOY.encode(Q=1)


def test_a_word_wider_than_the_layout_is_refused() -> None:
    for word in (1 << 16, -1):
        with pytest.raises(ValueError, match="does not fit 16 bits"):
            TOY.decode(word)
        with pytest.raises(ValueError, match="does not fit 16 bits"):
            TOY.describe(word)


def test_describe_hides_nothing() -> None:
    assert TOY.describe(TOY.encode()) == "PAGE=0x0"
    assert TOY.describe(TOY.encode(P=1, KIND=2, SPLIT=5)) == "P KIND=blue SPLIT=0x5 PAGE=0x0"
    assert TOY.describe(TOY.encode(KIND=3)) == "KIND=0x3 PAGE=0x0"
    assert TOY.describe(1 << 6 | 1 << 15) == "PAGE=0x0 reserved=0x8040 missing=0x8"


def test_table_covers_the_word_from_the_top() -> None:
    assert TOY.table() == [
        Row("15", "-", "reserved, must be 0"),
        Row("14..13", "PAGE", "page"),
        Row("12..10, 5..4", "SPLIT", "in two places"),
        Row("9..6", "-", "reserved, must be 0"),
        Row("3", "-", "always 1"),
        Row("2..1", "KIND", "kind: 0 none, 2 blue"),
        Row("0", "P", "present"),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((flag("A", 0, ""), field("B", 0, 2, "")), "B overlaps"),
        ((flag("A", 0, ""), flag("A", 1, "")), "used twice"),
        ((flag("A", 8, ""),), "outside its 8 bits"),
    ],
)
def test_a_wrong_declaration_is_refused(fields: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout("wrong", 8, "nowhere", fields)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@given(data=st.data())
def test_every_layout_round_trips(layout: Layout, data: st.DataObject) -> None:
    word = data.draw(st.integers(0, (1 << layout.width) - 1)) & ~layout.reserved | layout.ones
    assert layout.encode(**layout.decode(word)) == word
    text = layout.describe(word)
    assert "reserved=" not in text
    assert "missing=" not in text


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_is_documented_bit_by_bit(layout: Layout) -> None:
    assert layout.source
    bits = []
    for row in layout.table():
        assert row.meaning
        for part in row.bits.split(", "):
            high, _, low = part.partition("..")
            bits += range(int(low or high), int(high) + 1)
    assert sorted(bits) == list(range(layout.width))
