"""The selector language: what it means, what it refuses, and that it never breaks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.access.selectors import MAX_SELECTOR, BadSelector, parse

LABELS = {"site": "berlin", "tier": "prod", "empty": "", "img": "reg.io/a:1"}

# text -> whether it means device pump-17 with LABELS, live, id 42
MEANINGS = {
    "pump-17": True,
    "pump-1": False,
    "pump-*": True,
    "pump-1?": True,
    "pump-?": False,
    "*": True,
    "*-17": True,
    "?ump*": True,
    " pump-17 ": True,
    "site=berlin": True,
    "site == berlin": True,
    "site = oslo": False,
    "site!=oslo": True,
    "site!=berlin": False,
    "site=ber*": True,
    "site!=ber*": False,
    "absent=x": False,
    "absent!=x": True,
    "absent!=*": True,
    "absent=*": False,
    "site=*": True,
    "empty=": True,
    "empty=*": True,
    "empty!=": False,
    "absent=": False,
    "!absent": True,
    "! absent": True,
    "!site": False,
    "!empty": False,
    "site in (berlin,oslo)": True,
    "site in ( oslo , berlin )": True,
    "site in(berlin)": True,
    "site in (oslo)": False,
    "site in (ber*)": True,
    "site notin (oslo)": True,
    "site notin (berlin,oslo)": False,
    "absent in (a)": False,
    "absent notin (a)": True,
    "img=reg.io/a:1": True,
    "name=pump-17": True,
    "name in (valve-1,pump-17)": True,
    "name!=pump-*": False,
    "id=42": True,
    "id=43": False,
    "state=live": True,
    "state!=live": False,
    "pump-*,site=berlin": True,
    "pump-*,site=oslo": False,
    "pump-*,site=berlin,tier!=test,site in (berlin,oslo)": True,
    "pump-*,*-17": True,
    "pump-17,pump-*": True,
    "in": False,
    "notin": False,
    "SITE=berlin": False,
}

# text -> (part of the message, position)
REFUSED = {
    "": ("empty selector", 0),
    "  ": ("empty selector", 0),
    ",": ("nothing between", 0),
    "a,": ("nothing between", 2),
    "a,,b=c": ("nothing between", 2),
    "a,b": ("name in (a,b)", 2),
    "x*,a,b": ("name in (a,b)", 5),
    "Pump": ("lower case: pump", 0),
    "a_b": ("not a name", 1),
    "a b": ("not a name", 1),
    "-a": ("not a name", 0),
    "=x": ("not a name", 0),
    "!": ("not a name", 0),
    "!!a": ("not a name", 0),
    "!name": ("every device has name", 0),
    "x" * 64: ("not a name", 63),
    "k=a b": ("a value has", 3),
    "k===v": ("a value has", 3),
    "site=berlin;ls": ("a value has", 11),
    "k=v,j=\x1b[2J": ("a value has", 6),
    "k=" + "v" * 254: ("a value has", 255),
    "k in ()": ("no value", 6),
    "k in (a,)": ("nothing between", 8),
    "k in (a,b c)": ("a value has", 9),
    "k in a,b": ("a list of values", 0),
    "k in (a": ("not closed", 5),
    "k in a)": ("without an opening", 6),
    "k in ((a))": ("inside parentheses", 6),
    "k in (a)b": ("a list of values", 0),
    "k=(a)": ("a value has", 2),
    "k=v," * 64 + "k=v": ("at most 64 terms", 256),
    "é": ("not a name", 0),
    "k=\u0661": ("a value has", 2),
}

WORDS = st.lists(
    st.sampled_from(
        [
            "a",
            "B",
            "*",
            "?",
            "!",
            "=",
            "==",
            "!=",
            " in ",
            " notin ",
            "(",
            ")",
            ",",
            " ",
            "name",
            "\n",
        ]
    ),
    max_size=12,
).map("".join)
KEYS = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,8}\Z")
VALUES = st.from_regex(r"\A[A-Za-z0-9_.:/@+*?-]{0,8}\Z")
FULL_VALUES = VALUES.filter(bool)
TERMS = st.one_of(
    st.builds("{}{}{}".format, KEYS, st.sampled_from(["=", "==", "!=", " = "]), VALUES),
    st.builds(
        lambda key, op, values: f"{key} {op} ({', '.join(values)})",
        KEYS,
        st.sampled_from(["in", "notin"]),
        st.lists(FULL_VALUES, min_size=1, max_size=4),
    ),
    st.builds("!{}".format, KEYS.filter(lambda key: key not in ("id", "name", "state"))),
    st.from_regex(r"\A[a-z0-9]{0,3}\*[a-z0-9-]{0,3}\Z"),
)
SETTINGS = settings(max_examples=300, deadline=None, derandomize=True, database=None)


class Meaning(SynchronousTestCase):
    def test_table(self) -> None:
        """Every form means what the table says."""
        for text, expected in MEANINGS.items():
            found = parse(text).matches("pump-17", LABELS, state="live", device_id="42")
            self.assertEqual(found, expected, text)

    def test_canonical_text(self) -> None:
        """The canonical text of a selector parses to an equal selector."""
        for text in MEANINGS:
            selector = parse(text)
            self.assertEqual(parse(str(selector)), selector)
        self.assertEqual(str(parse(" a* , k == v,x  in ( b , c ),! z ")), "a*,k=v,x in (b,c),!z")

    def test_single_name(self) -> None:
        """Only one plain name means at most one device."""
        names = [parse(text).single_name for text in ("pump", "pump*", "name=pump", "pump,a=b")]
        self.assertEqual(names, ["pump", None, None, None])

    def test_labels_cannot_shadow_the_device(self) -> None:
        """A label called name is not the device's name."""
        self.assertFalse(parse("name=x").matches("pump", {"name": "x"}))

    def test_hostile_glob_is_fast(self) -> None:
        """A glob of many stars against a long value takes no exponential time."""
        selector = parse("k=" + "*a" * 100 + "b")
        self.assertFalse(selector.matches("pump", {"k": "a" * 253}))


class Refusal(SynchronousTestCase):
    def test_table(self) -> None:
        """Every mistake is named, with its position."""
        for text, (message, position) in REFUSED.items():
            error = self.assertRaises(BadSelector, parse, text)
            self.assertIn(message, error.message, text)
            self.assertEqual(error.position, position, text)

    def test_caret(self) -> None:
        """The error shows where, under the text, and nothing a terminal would act on."""
        error = self.assertRaises(BadSelector, parse, "k=v,j=\x1b[2J")
        self.assertEqual(str(error).splitlines()[1:], ["  k=v,j=\ufffd[2J", "        ^"])

    def test_caret_in_a_long_selector(self) -> None:
        """Of a long selector only the part around the mistake is shown."""
        error = self.assertRaises(BadSelector, parse, "k=v," * 50 + "B C" + ",k=v" * 50)
        _message, shown, caret = str(error).splitlines()
        self.assertLess(len(shown), 70)
        self.assertEqual(shown[caret.index("^")], "B")

    def test_too_long(self) -> None:
        """One character more than the limit is refused."""
        fits = "k in (" + "a," * ((MAX_SELECTOR - 8) // 2) + "a)"
        self.assertEqual(len(fits), MAX_SELECTOR)
        parse(fits)
        self.assertRaises(BadSelector, parse, fits + " ")

    @given(st.one_of(st.text(), WORDS))
    @SETTINGS
    def test_nothing_but_bad_selector(self, text: str) -> None:
        """Whatever the text, it parses to something that round-trips or is refused."""
        try:
            selector = parse(text)
        except BadSelector as error:
            self.assertLessEqual(error.position, len(text))
            str(error)
        else:
            self.assertEqual(parse(str(selector)), selector)
            selector.matches("pump", LABELS)

    @given(st.lists(TERMS, min_size=1, max_size=6))
    @SETTINGS
    def test_well_formed(self, terms: list[str]) -> None:
        """Every well-formed list of terms is accepted, and means all its terms at once."""
        selector = parse(",".join(terms))
        self.assertEqual(len(selector.terms), len(terms))
        self.assertEqual(parse(str(selector)), selector)
        self.assertEqual(
            selector.matches("pump", LABELS),
            all(parse(term).matches("pump", LABELS) for term in terms),
        )
