"""Rows that cannot be meant are left out by the database, and no others."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.dialects import postgresql
from twisted.trial.unittest import SynchronousTestCase

from rshell.access.narrowing import conditions_of
from rshell.access.selectors import parse
from rshell.store import database
from rshell.store import devices as queries
from rshell.store.clauses import MAX_WILD, clauses_of
from rshell.store.narrowing import EVERYTHING, MAX_IDS, Condition, Narrowing
from rshell.store.records import Device
from rshell.store.schema import device_labels, devices
from rshell.store.store import Store
from tests.store.fixture import StoreTestCase, statements

SETTINGS = settings(max_examples=300, deadline=None, derandomize=True, database=None)
KEYS = ("a", "a.b", "Site", "x-1")
TEXT = st.text("ab1-", max_size=4)
VALUE = st.text("aB1._:/@+-", max_size=3)
GLOB = st.text("aB1._:/@+-*?", max_size=4)
NAME_GLOB = st.text("ab1-*?", min_size=1, max_size=5)
KEY = st.sampled_from((*KEYS, "name", "id", "state", "facts.os"))
LABEL = st.sampled_from((*KEYS, "facts.os"))
TERM = st.one_of(
    NAME_GLOB,
    st.builds("{}{}{}".format, KEY, st.sampled_from(("=", "!=", "==")), GLOB),
    st.builds(
        lambda key, how, values: f"{key} {how} ({','.join(values)})",
        KEY,
        st.sampled_from(("in", "notin")),
        st.lists(GLOB.filter(bool), min_size=1, max_size=4),
    ),
    st.builds("!{}".format, LABEL),
)
FLEET = st.lists(
    st.tuples(
        st.builds("{}{}".format, st.sampled_from("ab1"), TEXT),
        st.dictionaries(st.sampled_from(KEYS), VALUE, max_size=3),
        st.booleans(),
    ),
    max_size=12,
    unique_by=lambda one: one[0],
)
STATES = ("live", "suspect", "lost", "never")


def put_all(store: Store, fleet: Iterable[tuple[str, dict[str, str], str]]) -> list[str]:
    """Write the rows of devices, (name, labels, status) of each; return their ids."""
    base = {"name_provisional": False, "epoch": 0, "dial": 0, "link_generation": 0, "facts": "{}"}
    rows, labels = [], []
    for name, labelled, status in fleet:
        device_id = str(uuid.uuid4())
        rows.append(
            {"id": device_id, "name": name, "status": status, "created_at": len(rows), **base}
        )
        labels += [{"device_id": device_id, "key": k, "value": v} for k, v in labelled.items()]

    def write(connection: Connection) -> None:
        for table, values in ((devices, rows), (device_labels, labels)):
            if values:
                connection.execute(insert(table), values)

    store._writer.write(write)
    return [str(row["id"]) for row in rows]


class SelectorTests(StoreTestCase):
    @SETTINGS
    @given(FLEET, st.lists(TERM, min_size=1, max_size=4))
    def test_as_each_row_is_judged(
        self, fleet: list[tuple[str, dict[str, str], bool]], terms: list[str]
    ) -> None:
        """What the database leaves is what judging every row leaves, for whatever selector."""
        try:
            selector = parse(",".join(terms))
        except ValueError:
            return
        self.store._writer.write(_empty)
        put_all(
            self.store,
            [(name, labels, "active" if active else "revoked") for name, labels, active in fleet],
        )
        everyone = self.got(self.store.find_devices())
        left = self.got(self.store.find_devices(Narrowing(conditions_of(selector))))
        for state in STATES:
            for facts in ({}, {"os": "a"}):
                self.assertEqual(
                    [one for one in left if self.means(selector, one, state, facts)],
                    [one for one in everyone if self.means(selector, one, state, facts)],
                    terms,
                )
        # What has a condition for each of its terms is answered by the database alone.
        if len(conditions_of(selector)) == len(selector.terms):
            meant = [one for one in everyone if self.means(selector, one, "", {})]
            self.assertEqual(left, meant, terms)

    @staticmethod
    def means(selector: Any, device: Device, state: str, facts: dict[str, Any]) -> bool:
        """Return whether a selector means a device."""
        found: bool = selector.matches(
            device.name, device.labels, state=state, device_id=device.id, facts=facts
        )
        return found

    def test_states(self) -> None:
        """Whether a device that is away may be meant is told by the terms about states alone."""
        for text, allowed in {
            "state=live": False,
            "state!=live": True,
            "state in (live,suspect),site=x": False,
            "state in (live,lo*)": True,
            "state=live,state=lost": False,
            "state notin (lost,never)": False,
            "site=x": True,
            "*": True,
        }.items():
            self.assertEqual(parse(text).state_allows("lost", "never"), allowed, text)


class NarrowingTests(StoreTestCase):
    def names(self, *conditions: Condition, **more: Any) -> list[str]:
        """Return the names of what is left."""
        found = self.got(self.store.find_devices(Narrowing(conditions, **more)))
        return [device.name for device in found]

    def test_what_is_odd(self) -> None:
        """Signs of SQL, and of patterns that are not ours, mean themselves; nothing is too long."""
        values = enumerate(("a_b", "axb", "a%", "", "A_B"), 1)
        put_all(self.store, [(f"d{number}", {"k": value}, "active") for number, value in values])
        put_all(self.store, [("d9", {}, "active")])
        label = ("label", "k")
        self.assertEqual(self.names(Condition(*label, ("a_b",))), ["d1"])
        self.assertEqual(self.names(Condition(*label, ("a_*",))), ["d1"])
        self.assertEqual(self.names(Condition(*label, ("a%*",))), ["d3"])
        self.assertEqual(self.names(Condition(*label, ("",))), ["d4"])
        self.assertEqual(self.names(Condition(*label, ("?*",))), ["d1", "d2", "d3", "d5"])
        self.assertEqual(self.names(Condition(*label, ("*",), negated=True)), ["d9"])
        self.assertEqual(self.names(Condition(*label, ("'; DROP TABLE devices",))), [])
        many = tuple(f"{number}*" for number in range(MAX_WILD + 1))
        self.assertEqual(list(clauses_of([Condition(*label, many)])), [])
        self.assertEqual(len(self.names(Condition(*label, many))), 6)
        self.assertEqual(self.names(Condition(*label, many[:-1])), [])
        words = tuple(f"v{number}" for number in range(1_000))
        most = Condition(*label, (*words, *many[:-1]))
        self.assertEqual(self.names(*[most] * 64), [])

    def test_hostile_glob_is_fast(self) -> None:
        """A glob of many stars against a long value takes no exponential time."""
        put_all(self.store, [("d1", {"k": "a" * 253}, "active")])
        self.assertEqual(self.names(Condition("label", "k", ("*a" * 100 + "b",))), [])

    def test_among(self) -> None:
        """Of a list of ids those that are there come by name, however many they are."""
        many = [(f"d{MAX_IDS * 2 - n:04}", {"n": str(n)}, "active") for n in range(MAX_IDS)]
        ids = put_all(self.store, many)
        _, gone = put_all(self.store, [("other", {}, "active"), ("gone", {}, "revoked")])
        wanted = frozenset({*ids[:2], *ids[-2:], gone, "nobody", *map(str, range(MAX_IDS))})
        found = self.got(self.store.find_devices(Narrowing(among=wanted)))
        self.assertEqual([one.name for one in found], sorted(one.name for one in found))
        self.assertEqual({one.id for one in found}, {*ids[:2], *ids[-2:]})
        self.assertEqual({one.labels["n"] for one in found}, {"0", "1", "498", "499"})
        self.assertEqual(self.names(Condition("label", "n", ("1",)), among=wanted), ["d0999"])
        self.assertEqual(self.names(among=frozenset()), [])

    def test_facts_of_some(self) -> None:
        """Facts are read of the devices that are named, and of none else."""
        ids = put_all(self.store, [(f"d{number}", {}, "active") for number in range(3)])
        for number, one in enumerate(ids):
            self.got(self.store.keep_facts(one, 1, {"os": f"o{number}", "n": 1}))
        found = self.got(self.store.all_facts(["os"], [ids[2], ids[0], "nobody"]))
        self.assertEqual(found, {ids[0]: {"os": "o0"}, ids[2]: {"os": "o2"}})
        self.assertEqual(self.got(self.store.all_facts(["os"], [])), {})
        self.assertEqual(len(self.got(self.store.all_facts(["os"]))), 3)


def _empty(connection: Connection) -> None:
    connection.execute(delete(device_labels))
    connection.execute(delete(devices))


class PlanTests(StoreTestCase):
    """How the database answers: by which index, in how many statements, with how many rows."""

    def setUp(self) -> None:
        super().setUp()
        put_all(
            self.store,
            [
                (f"sim-{number}", {"site": f"s{number % 10}", "n": str(number)}, "active")
                for number in range(1_200)
            ],
        )

    def plan(self, statement: str, count: int) -> str:
        """Return how SQLite would do it."""
        with sqlite3.connect(self.path) as connection:
            steps = connection.execute(f"EXPLAIN QUERY PLAN {statement}", [""] * count).fetchall()
        connection.close()
        return "; ".join(step[3] for step in steps)

    def test_indexes(self) -> None:
        """A name, how it begins, and a label's value are found by an index."""
        name, label = "devices_active_name (name", "COVERING INDEX device_labels_value (key=? AND "
        for text, wanted in {
            "name=sim-7": f"{name}=?)",
            "sim-11*": f"{name}>? AND name<?)",
            "site=s3": f"{label}value=?)",
            "site=s*,n=7": f"{label}value>? AND value<?)",
            "site in (s1,s2)": f"{label}value=?)",
            "site=*": "COVERING INDEX device_labels_value (key=?)",
            "id=x": "sqlite_autoindex_devices_1 (id=?)",
        }.items():
            with statements() as found:
                self.got(self.store.find_devices(Narrowing(conditions_of(parse(text)))))
            chosen = next(one for one in found if one.startswith("SELECT devices."))
            plan = self.plan(chosen, chosen.count("?"))
            self.assertIn(wanted, plan, text)
            self.assertNotIn("SCAN", plan, text)

    def test_other_engine(self) -> None:
        """On PostgreSQL a glob is a LIKE, with what LIKE means by itself escaped."""
        label = Condition("label", "site", ("a_%*?",), negated=True)
        query = select(devices.c.id).where(*clauses_of([label]))
        compiled = query.compile(dialect=postgresql.dialect())
        self.assertIn("device_labels.value LIKE %(value_1)s", str(compiled))
        self.assertIn("NOT IN", str(compiled))
        self.assertEqual("a\\_\\%%_", compiled.params["value_1"])

    def test_counts(self) -> None:
        """A selector is two statements, and makes records of no other devices than it means."""
        made = 0
        inner = queries._device

        def counting(row: Any, labels: Any) -> Device:
            nonlocal made
            made += 1
            return inner(row, labels)

        self.patch(queries, "_device", counting)
        for text, count in {
            "site=s3": 120,
            "sim-11*": 111,
            "site=s3,sim-*3": 120,
            "n=7": 1,
        }.items():
            made = 0
            with statements() as found:
                got = self.got(self.store.find_devices(Narrowing(conditions_of(parse(text)))))
            self.assertEqual((len(got), made, len(found)), (count, count, 3), found)
        with statements() as found:
            self.assertEqual(len(self.got(self.store.find_devices(EVERYTHING))), 1_200)
        self.assertEqual(len(found), 3, found)
        with statements() as found:
            self.assertEqual(
                self.got(self.store.find_devices(Narrowing(conditions_of(parse("site=x"))))), []
            )
        self.assertEqual(len(found), 2, found)


class UpgradeTests(SynchronousTestCase):
    def test_older_home(self) -> None:
        """A store of before is given the index, and its labels are found by it."""
        path = Path(self.mktemp())
        engine = database.open_writer(path)
        self.addCleanup(engine.dispose)
        config = Config()
        config.set_main_option("script_location", str(database._MIGRATIONS).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0009")
            connection.exec_driver_sql(
                "INSERT INTO devices (id, name, name_provisional, status, created_at, epoch, dial,"
                " link_generation, facts) VALUES ('i', 'pump', 0, 'active', 1, 0, 0, 0, '{}')"
            )
            connection.exec_driver_sql("INSERT INTO device_labels VALUES ('i', 'site', 'oslo')")
        database.migrate(engine)
        with engine.begin() as connection:
            found = queries.find_devices(connection, Narrowing(conditions_of(parse("site=os*"))))
            indexes = connection.exec_driver_sql("PRAGMA index_list(device_labels)").all()
        self.assertEqual([(one.name, one.labels) for one in found], [("pump", {"site": "oslo"})])
        self.assertIn("device_labels_value", [row[1] for row in indexes])
