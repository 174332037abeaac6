"""Walking beneath roots compared with what the system itself makes of the same paths."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from rshell_agent.workers.confined import Confined, Denied
from tests.agent.workers.tree import TreeCase

NAMES = [b"a", b"b", b"..", b".", b"l", b"m"]
#: A dot at the end means nothing to us; to the system it demands a folder.
PATHS = (
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=8)
    .filter(lambda names: names[-1] != b".")
    .map(b"/".join)
)
#: (where, what): None makes a folder, bytes a symbolic link, which may lead anywhere
TREES = st.lists(
    st.tuples(
        st.lists(st.sampled_from([b"a", b"b", b"l", b"m"]), min_size=1, max_size=4),
        st.one_of(st.none(), st.just(b""), PATHS, PATHS.map(lambda p: b"TOP/" + p)),
    ),
    max_size=12,
)


class OracleTests(TreeCase):
    def grow(self, number: int, tree: list[tuple[list[bytes], bytes | None]]) -> bytes:
        """Make folders, files and links; what cannot be made is left out."""
        top = self.path(b"tree%d" % number)
        os.makedirs(os.path.join(top, b"in"))
        for names, what in tree:
            path = os.path.join(top, b"in", *names)
            try:
                if what is None:
                    os.makedirs(path)
                elif what:
                    os.symlink(what.replace(b"TOP", top), path)
                else:
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            except OSError:
                pass
        return top

    @settings(max_examples=60)
    @given(TREES, st.lists(PATHS, min_size=1, max_size=6))
    def test_whole_system(
        self, tree: list[tuple[list[bytes], bytes | None]], paths: list[bytes]
    ) -> None:
        """With / as root every path means what it means to the system, errors included."""
        top = self.grow(len(os.listdir(self.top)), tree)
        with Confined(["/"], ["/"], home=os.path.join(top, b"in")) as confined:
            for path in paths:
                absolute = os.path.join(top, b"in", path)
                for follow in (True, False):
                    self.assertEqual(
                        _try(lambda p=path, f=follow: confined.stat(p, follow=f)),
                        _try(lambda p=absolute, f=follow: os.stat(p, follow_symlinks=f)),
                        (path, follow),
                    )

    @settings(max_examples=60)
    @given(TREES, st.lists(PATHS, min_size=1, max_size=6))
    def test_beneath(
        self, tree: list[tuple[list[bytes], bytes | None]], paths: list[bytes]
    ) -> None:
        """With a folder as root nothing outside is reached, and what stays inside is."""
        top = self.grow(len(os.listdir(self.top)), tree)
        root = os.path.join(top, b"in")
        with Confined([os.fsdecode(root)], [], home=root) as confined:
            for path in paths:
                try:
                    place = confined.at(path, follow=True)
                except Denied:
                    continue
                except OSError as error:
                    theirs = _try(lambda p=path: os.stat(os.path.join(root, p)))
                    self.assertEqual(theirs, error.errno, path)
                    continue
                reached = os.readlink(b"/proc/self/fd/%d" % place.dir_fd)
                self.assertEqual((reached + b"/").find(root + b"/"), 0, path)
                real = os.path.realpath(os.path.join(root, path))
                self.assertEqual(os.path.normpath(os.path.join(reached, place.name)), real, path)
                place.close()


def _try(call: object) -> object:
    """Return device and inode, or the number of the error."""
    try:
        info: os.stat_result = call()  # type: ignore[operator]  # a closure over the loop
    except OSError as error:
        return error.errno
    return info.st_dev, info.st_ino
