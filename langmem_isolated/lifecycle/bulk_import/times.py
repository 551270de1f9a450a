"""Times of foreign records, as the tables hold them."""

from __future__ import annotations

from datetime import datetime

from langmem_isolated._codecs.refusals import NotStorable
from langmem_isolated._runtime.clock import EPOCH, MICROSECOND


def microseconds(moment: datetime | None) -> int | None:
    """Microseconds since 1970, UTC.

    Raises:
        NotStorable: It has no time zone, or lies before 1970.
    """
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise NotStorable("its time has no time zone")
    if moment < EPOCH:
        raise NotStorable("its time lies before 1970, which no record of a memory can have")
    return (moment - EPOCH) // MICROSECOND
