"""Keys of the score store: digests over everything that can change what they name."""

import struct
from collections.abc import Sequence
from hashlib import blake2b

from icm_client.endpoints.protocol import TokenIds
from icm_client.scoring.prompts import Asked, Prompt

PROTOCOL_VERSION = 1
"""Raised when a read comes to mean something else, so that older answers are left alone."""

DIGEST_BYTES = 16


def score_keys(fingerprint: str, reads: Sequence[Asked]) -> list[bytes]:
    """Return the key of each read's answer, 16 bytes: version, server, wanted ids, prompt ids.

    A context that prompts share is digested once; the keys are those of prompts written out.
    """
    start = blake2b(_header(fingerprint), digest_size=DIGEST_BYTES, person=b"icm scores")
    begun: dict[TokenIds, blake2b] = {}
    behind: dict[tuple[int, TokenIds], blake2b] = {}  # heads by identity: `reads` keeps them alive
    keys = []
    for read in reads:
        prompt, wanted = read.prompt, read.wanted
        digest = begun.get(wanted)
        if digest is None:
            digest = begun[wanted] = start.copy()
            # The count of wanted ids says where they end and the prompt begins.
            digest.update(struct.pack(f"<{len(wanted) + 1}i", len(wanted), *wanted))
        if isinstance(prompt, Prompt):
            place = id(prompt.head), wanted
            if place not in behind:
                behind[place] = digest.copy()
                behind[place].update(pack_ids(prompt.head))
            digest = behind[place]
            prompt = prompt.tail
        digest = digest.copy()
        digest.update(pack_ids(prompt))
        keys.append(digest.digest())
    return keys


def token_keys(fingerprint: str, texts: Sequence[str], *, add_special: bool) -> list[bytes]:
    """Return the key of each text's token ids, 16 bytes: version, server, `add_special`, text."""
    person = b"icm tokens +bos" if add_special else b"icm tokens"
    start = blake2b(_header(fingerprint), digest_size=DIGEST_BYTES, person=person)
    keys = []
    for text in texts:
        digest = start.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        keys.append(digest.digest())
    return keys


def pack_ids(ids: TokenIds) -> bytes:
    """Return `ids` as int32, little endian."""
    # Twice as fast as array("i", ids) and numpy.array(ids) for tuples of a few thousand.
    return struct.pack(f"<{len(ids)}i", *ids)


def unpack_ids(packed: bytes) -> TokenIds:
    """Return what `pack_ids` packed."""
    return struct.unpack(f"<{len(packed) // 4}i", packed)


def _header(fingerprint: str) -> bytes:
    name = fingerprint.encode()
    return struct.pack("<ii", PROTOCOL_VERSION, len(name)) + name
