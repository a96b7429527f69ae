"""Who has ended which rounds of a run."""

from collections.abc import Iterable, Mapping


class Participation:
    """Rounds by client, as ranges.

    >>> took_part = Participation()
    >>> for index in (1, 2, 4):
    ...     took_part.add(index, ["b", "a"] if index == 1 else ["a"])
    >>> took_part.texts()
    {'a': '1-2, 4', 'b': '1'}
    """

    def __init__(self, ranges: Mapping[str, Iterable[Iterable[int]]] | None = None) -> None:
        self.ranges = {name: [list(pair) for pair in pairs] for name, pairs in (ranges or {}).items()}

    def add(self, round_index: int, names: Iterable[str]) -> None:
        """These have ended a round, which comes after all those that were added."""
        for name in names:
            pairs = self.ranges.setdefault(name, [])
            if pairs and pairs[-1][1] == round_index - 1:
                pairs[-1][1] = round_index
            else:
                pairs.append([round_index, round_index])

    @property
    def most_rounds(self) -> int:
        """How many rounds the client has ended that has ended the most."""
        counts = (sum(last - first + 1 for first, last in pairs) for pairs in self.ranges.values())
        return max(counts, default=0)

    def texts(self) -> dict[str, str]:
        """For people: each client's rounds, in the order of names."""
        return {
            name: ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in pairs)
            for name, pairs in sorted(self.ranges.items())
        }
