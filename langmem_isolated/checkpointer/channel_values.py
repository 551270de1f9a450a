"""Channel values: what the channels of a thread hold now, those kept as deltas among them."""

from typing import Any

from langmem_isolated._codecs.checkpoints.decoder import Decoder
from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._codecs.checkpoints.stored_bodies import Body
from langmem_isolated._codecs.delta_channels import plain_value, replayed, without_value
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.threads import reading
from langmem_isolated._storage.threads.addresses import Life
from langmem_isolated.checkpointer.addresses import Address, parent_of
from langmem_isolated.checkpointer.bodies import required_elements
from langmem_isolated.checkpointer.delta_history import walk


def thread_values(
    transaction: Transaction, keys: ScopeKeys, thread_id: str, serde: Serde, now: int
) -> dict[str, Any] | None:
    """The channels' values at a thread's latest checkpoint; ``None`` where it has none.

    That of the graph itself, not of its subgraphs. What tasks have written behind the checkpoint is
    no value yet.

    Raises:
        RecordDoesNotOpen: What is stored was changed, moved or removed.
    """
    address = Address(thread_id, "", None)
    parent = parent_of(keys, address)
    digest = parent[:DIGEST_BYTES]
    found = reading.get(transaction, keys, digest, parent, None, now)
    if found is None:
        return None
    body, life = Body.of(found.checkpoint), Life(digest, found.state.birth)
    elements = required_elements(transaction, keys, life, [body])
    ((*_, metadata, stored),) = Decoder(elements, None, serde).decode([body])
    values = {name: plain_value(value) for name, value in stored.items()}
    names = without_value(metadata, values)
    histories = walk(transaction, keys, address, names, serde, now) if names else {}
    return values | {name: replayed(name, one.result()) for name, one in histories.items()}
