"""What becomes of what: the rules of cp(1)."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from rshell.client.files.plan import Found, Plan, Target, plan_copies
from rshell.client.files.records import Entry, FilesError

FILE, FOLDER, OTHER = (Entry(kind=kind) for kind in ("file", "dir", "other"))


def below(*paths: str) -> list[Entry]:
    """Return entries; a path that ends in / is a folder, in @ a link, in = a socket."""
    kinds = {"/": "dir", "@": "link", "=": "other"}
    return [
        Entry(path=path.rstrip("/@=").encode(), kind=kinds.get(path[-1], "file")) for path in paths
    ]


class PlanTests(SynchronousTestCase):
    def plan(
        self, found: Sequence[Found], target: Target, recursive: bool = False, many: bool = False
    ) -> Plan:
        return plan_copies(found, target, recursive=recursive, many=many or len(found) > 1)

    def targets(self, plan: Plan) -> list[tuple[str, bytes]]:
        return [(step.kind, step.target) for step in plan.steps]

    def refused(self, *arguments: object, **options: object) -> str:
        error = self.assertRaises(FilesError, self.plan, *arguments, **options)
        return error.code

    def test_file(self) -> None:
        """A file becomes the destination, or goes into it if that is a folder."""
        one = Found(b"/a/f", FILE)
        cases = [
            (Target(b"/b/g", None), b"/b/g"),
            (Target(b"/b/g", FILE), b"/b/g"),
            (Target(b"/b", FOLDER), b"/b/f"),
            (Target(b"/b/", FOLDER), b"/b/f"),
            (Target(b"/", FOLDER), b"/f"),
            (Target(b".", FOLDER), b"f"),
            (Target(b"g", None), b"g"),
            (Target(b"/g", None), b"/g"),
        ]
        for target, wanted in cases:
            plan = self.plan([one], target)
            self.assertEqual([("file", wanted)], self.targets(plan))
            self.assertEqual(not target.is_folder, plan.steps[0].named)

    def test_several(self) -> None:
        """Several sources need a folder, which a name with a slash is not yet."""
        two = [Found(b"a", FILE), Found(b"b", FILE)]
        plan = self.plan(two, Target(b"d", FOLDER))
        self.assertEqual([("file", b"d/a"), ("file", b"d/b")], self.targets(plan))
        for target in (Target(b"d", None), Target(b"d", FILE), Target(b"d/", None)):
            self.assertEqual("not-a-directory", self.refused(two, target))
        self.assertEqual("not-a-directory", self.refused([two[0]], Target(b"d", None), many=True))
        self.assertEqual("not-a-directory", self.refused([two[0]], Target(b"d/", None)))
        self.assertEqual("not-a-directory", self.refused([two[0]], Target(b"d/", FILE)))

    def test_folder(self) -> None:
        """A folder becomes the destination, or goes into it under its name."""
        one = Found(b"/a/src/", FOLDER, below("x", "s/", "s/y", "l@"))
        new = [("dir", b"/b"), ("file", b"/b/x"), ("dir", b"/b/s"), ("file", b"/b/s/y"),
               ("link", b"/b/l")]  # fmt: skip
        for target in (Target(b"/b", None), Target(b"/b/", None)):
            self.assertEqual(new, self.targets(self.plan([one], target, recursive=True)))
        into = self.targets(self.plan([one], Target(b"/b", FOLDER), recursive=True))
        self.assertEqual([(kind, path.replace(b"/b", b"/b/src")) for kind, path in new], into)

    def test_contents(self) -> None:
        """A source that ends in /. stands for what is in it."""
        one = Found(b"/a/src/.", FOLDER, below("x", "s/", "s/y"))
        plan = self.plan([one], Target(b"/b", FOLDER), recursive=True)
        wanted = [("file", b"/b/x"), ("dir", b"/b/s"), ("file", b"/b/s/y")]
        self.assertEqual(wanted, self.targets(plan))
        plan = self.plan([one], Target(b"/new", None), recursive=True)
        self.assertEqual(("dir", b"/new"), self.targets(plan)[0])

    def test_refused(self) -> None:
        """Folders without -r, over a file, and what is no file are told, and the rest goes on."""
        folder = Found(b"d", FOLDER, below("x"))
        file = Found(b"f", FILE)
        plan = self.plan([folder, file, Found(b"s", OTHER)], Target(b"t", FOLDER))
        self.assertEqual([("file", b"t/f")], self.targets(plan))
        told = [(problem.error.code, problem.failure) for problem in plan.problems]
        self.assertEqual([("is-a-directory", True), ("not-a-file", True)], told)
        plan = self.plan([folder], Target(b"f", FILE), recursive=True)
        self.assertEqual((), tuple(plan.steps))
        self.assertEqual("not-a-directory", plan.problems[0].error.code)

    def test_same_name(self) -> None:
        """Of two sources with one name the second is refused, with all that is in it."""
        two = [Found(b"a/f", FILE), Found(b"b/f", FILE)]
        plan = self.plan(two, Target(b"t", FOLDER))
        self.assertEqual([("file", b"t/f")], self.targets(plan))
        self.assertEqual("exists", plan.problems[0].error.code)
        folders = [Found(b"a/d", FOLDER, below("x")), Found(b"b/d", FOLDER, below("y"))]
        plan = self.plan(folders, Target(b"t", FOLDER), recursive=True)
        self.assertEqual([("dir", b"t/d"), ("file", b"t/d/x")], self.targets(plan))

    def test_passed_over(self) -> None:
        """Sockets and the like below a folder are told and no failure; parts are not copied."""
        entries = below("s=", ".rshell-abcdefgh.part", "x")
        plan = self.plan([Found(b"d", FOLDER, entries)], Target(b"t", None), recursive=True)
        self.assertEqual([("dir", b"t"), ("file", b"t/x")], self.targets(plan))
        self.assertEqual([False], [problem.failure for problem in plan.problems])

    def test_hostile(self) -> None:
        """Names that lead out of the destination are refused one by one."""
        entries = below("../evil", "ok", "/etc/passwd", "a/../../b")
        plan = self.plan([Found(b"d", FOLDER, entries)], Target(b"t", None), recursive=True)
        self.assertEqual([("dir", b"t"), ("file", b"t/ok")], self.targets(plan))
        self.assertEqual(["bad-name"] * 3, [problem.error.code for problem in plan.problems])
