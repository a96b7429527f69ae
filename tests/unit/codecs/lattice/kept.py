"""Windows of tokens that are at hand."""

from dataclasses import dataclass

from splitcom.codecs.lattice.predict import Window
from splitcom.codecs.wire import Points


@dataclass(frozen=True)
class Kept:
    """Tokens `[size, directions]`, and how often they have been read."""

    rows: Points

    @property
    def size(self) -> int:
        return len(self.rows)

    def read(self, rows: Points) -> None:
        rows[:] = self.rows


def window_of(rows: Points, room: int = 0) -> Window:
    return Window(Kept(rows), room, rows.shape[1])
