"""Damage to frames: a seeded byte-level mutator, and the same as a hypothesis strategy. Knows no format.

Frame `index` of a `seed` is always the same, so a failure is reproduced from three values:

>>> corpus = [b"abcdefgh", b"ABCDEFGH"]
>>> hostile_frame(corpus, seed=1, index=7) == hostile_frame(corpus, seed=1, index=7)
True
"""

import re
from collections.abc import Callable, Sequence
from random import Random

from hypothesis import strategies as st

MAX_NOISE_BYTES = 64
_WIDTHS = (1, 2, 4, 8)
_BOUNDARIES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 1 << 31, 1 << 32, 1 << 63, 1 << 64)
_INTERESTING = sorted(
    {value + change for value in _BOUNDARIES for change in (-1, 0, 1) if value + change >= 0}
)
_NUMBER = re.compile(rb" *[0-9]+")

Corpus = Sequence[bytes]
Edit = Callable[[bytearray, Corpus, Random], None]


def hostile_frame(corpus: Corpus, seed: int, index: int) -> bytes:
    """One frame: in one case of twenty noise, else a frame of `corpus` with one or a few edits."""
    random = Random(f"{seed}/{index}")
    if random.random() < 0.05:
        return random.randbytes(random.randint(0, MAX_NOISE_BYTES))
    return mutate(random.choice(corpus), corpus, random)


def hostile_frames(corpus: Corpus) -> st.SearchStrategy[bytes]:
    """The same, drawn (and shrunk) by hypothesis."""
    mutated = st.builds(
        mutate,
        st.sampled_from(corpus),
        st.just(corpus),
        st.randoms(use_true_random=False, note_method_calls=False),
    )
    return mutated | st.binary(max_size=MAX_NOISE_BYTES)


def mutate(frame: bytes, corpus: Corpus, random: Random) -> bytes:
    """Apply one or a few edits to a copy of `frame`."""
    damaged = bytearray(frame)
    for _ in range(random.choice((1, 1, 1, 2, 4))):  # mostly one: more and few get past the header
        random.choice(EDITS)(damaged, corpus, random)
    return bytes(damaged)


def _place(frame: bytearray, random: Random) -> int:
    """Mostly near the start, where headers and lengths are."""
    return min(len(frame), int((len(frame) + 1) * random.random() ** random.choice((1, 1, 3))))


def _flip_bits(frame: bytearray, corpus: Corpus, random: Random) -> None:
    for _ in range(random.randint(1, 8)):
        if (place := _place(frame, random)) < len(frame):
            frame[place] ^= 1 << random.randrange(8)


def _truncate(frame: bytearray, corpus: Corpus, random: Random) -> None:
    del frame[_place(frame, random) :]


def _delete(frame: bytearray, corpus: Corpus, random: Random) -> None:
    start = _place(frame, random)
    del frame[start : start + random.randint(1, 16)]


def _insert(frame: bytearray, corpus: Corpus, random: Random) -> None:
    place = _place(frame, random)
    frame[place:place] = random.randbytes(random.randint(1, 16))


def _duplicate(frame: bytearray, corpus: Corpus, random: Random) -> None:
    start, place = _place(frame, random), _place(frame, random)
    frame[place:place] = frame[start : start + random.randint(1, 64)]


def _splice(frame: bytearray, corpus: Corpus, random: Random) -> None:
    """The start of this frame, the rest of another."""
    other = bytearray(random.choice(corpus))
    frame[_place(frame, random) :] = other[_place(other, random) :]


def _set_integer(frame: bytearray, corpus: Corpus, random: Random) -> None:
    _write(frame, _place(frame, random), random.choice(_INTERESTING), random.choice(_WIDTHS), random)


def _claim_length(frame: bytearray, corpus: Corpus, random: Random) -> None:
    """Change what may be a length or count by a little, or make it what is left and a little."""
    place, width = _place(frame, random), random.choice(_WIDTHS)
    claimed = int.from_bytes(frame[place : place + width], "little")
    base = random.choice((claimed, 2 * claimed, len(frame) - place - width, len(frame)))
    _write(frame, place, max(0, base + random.randint(-2, 2)), width, random)


def _set_varint(frame: bytearray, corpus: Corpus, random: Random) -> None:
    """Protobuf's integers and lengths: seven bits per byte, the lowest first."""
    value, place, octets = random.choice(_INTERESTING), _place(frame, random), bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    frame[place : place + 1] = bytes([*octets, value])


def _set_digits(frame: bytearray, corpus: Corpus, random: Random) -> None:
    """A number in text, such as a shape in the JSON header of safetensors; takes the room of the blanks before it."""
    if numbers := list(_NUMBER.finditer(frame)):
        start, end = random.choice(numbers).span()
        frame[start:end] = str(random.choice(_INTERESTING)).rjust(end - start).encode()


def _write(frame: bytearray, place: int, value: int, width: int, random: Random) -> None:
    octets = (value % (1 << 8 * width)).to_bytes(width, random.choice(("little", "little", "big")))
    frame[place : place + width] = octets


EDITS: tuple[Edit, ...] = (
    _flip_bits,
    _truncate,
    _delete,
    _insert,
    _duplicate,
    _splice,
    _set_integer,
    _claim_length,
    _set_varint,
    _set_digits,
)
