"""nftables: static tables, dynamic elements.

A table's chains, rules and set declarations are one text, replaced as a whole in one transaction; the elements of its
sets and maps are resources of their own, so a change costs one element. The text is never compared with what nft
lists: kernel/nft.py remembers the hash of the listing that followed our own write, and a table whose listing still has
that hash is read back as the text we wrote.
"""

from __future__ import annotations

from podnet.state.resource import Key, Resource


class NftTable(Resource, frozen=True, gc=False):
    """`table <family> <name> { <body> }`. The name starts with TABLE_PREFIX: that is the mark."""

    family: str
    name: str
    body: str

    @property
    def key(self) -> Key:
        """A table by family and name."""
        return ("NftTable", "", self.family, self.name)

    @property
    def home(self) -> Key:
        """(family, name) of the table itself."""
        return (self.family, self.name)


class Element(Resource, frozen=True, gc=False):
    """One element of a set (`value` is "") or map; concatenations are spelt `a . b` as nft does."""

    family: str
    table: str
    set: str
    element: str
    value: str = ""

    @property
    def key(self) -> Key:
        """An element by its table, set and own key."""
        return ("Element", "", self.family, self.table, self.set, self.element)

    @property
    def home(self) -> Key:
        """(family, name) of its table."""
        return (self.family, self.table)

    @property
    def kind(self) -> str:
        """Without making the key: there may be a million."""
        return "Element"
