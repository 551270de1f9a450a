"""What one owner's memory brought to another: counts by kind, and names that changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from langmem_isolated._codecs.values import decode_value, encode_value

if TYPE_CHECKING:
    from langmem_isolated._storage.copying.options import Copied


class NewName(NamedTuple):
    """What got another name, because something of the name it had was there."""

    kind: str
    """``"session"``, ``"thread"``, ``"item"``, ``"document"`` or ``"collection"``."""
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Transferred:
    """What a claim, or an ephemeral memory that is kept, brought to a scope.

    Kinds are ``"session"``, ``"message"``, ``"thread"``, ``"checkpoint"``, ``"item"``,
    ``"document"`` and so on.
    """

    counts: Mapping[str, int]
    skipped: Mapping[str, int]
    """Left out, because the scope had something of its name."""
    renamed: tuple[NewName, ...] = field(repr=False)

    def packed(self) -> bytes:
        """What :meth:`unpacked` reads."""
        parts = [dict(self.counts), dict(self.skipped), [list(one) for one in self.renamed]]
        return encode_value(parts, "a receipt")

    @classmethod
    def unpacked(cls, packed: bytes) -> "Transferred":
        """A receipt as it was sealed."""
        counts, skipped, renamed = decode_value(packed)
        return cls(counts, skipped, tuple(NewName(*one) for one in renamed))

    @classmethod
    def of(cls, copied: "Copied") -> "Transferred":
        """What a copy did."""
        renamed = (NewName(one.kind.label, one.old, one.new) for one in copied.renamed)
        counts, skipped = (
            {kind.label: count for kind, count in sorted(counted.items()) if count}
            for counted in (copied.counts, copied.skipped)
        )
        return cls(counts, skipped, tuple(renamed))
