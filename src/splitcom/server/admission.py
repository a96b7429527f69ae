"""Whether a client's batch fits the model that the engine runs: width, lengths, labels. Knows no conversation."""

from collections.abc import Mapping

from splitcom.amount import counted
from splitcom.codecs import Decoded
from splitcom.config import Config
from splitcom.engines.engine import Arrival
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.labels import Labels


class Admission:
    """For a body of this width; labels are tokens of a vocabulary, or classes, of which there are `num_labels`."""

    def __init__(self, config: Config, hidden_size: int, num_labels: int) -> None:
        self._hidden_size = hidden_size
        self._num_labels = num_labels
        self._classifies = config.data.classes is not None
        self._shortest, self._longest = 1 if self._classifies else 2, config.data.max_tokens
        batch_size = max(config.most_in_batch, config.evaluation.batch_size)
        self.max_batch_bytes = batch_size * config.data.max_tokens * hidden_size * 4

    def admit(self, decoded: Decoded, labels: Mapping[int, Labels] | None) -> Arrival:
        """Join a client's batch with its labels, None in the U-shape.

        Raises RemoteProtocolError if they do not fit this model.
        """
        batch = decoded.batch
        if batch.hidden != self._hidden_size:
            raise RemoteProtocolError(
                f"an activation of width {batch.hidden}; the model's is {self._hidden_size}"
            )
        lengths = batch.lengths.tolist()
        if bad := [length for length in lengths if not self._shortest <= length <= self._longest]:
            raise RemoteProtocolError(
                f"an activation of {counted(bad[0], 'token')}; expected {self._shortest} to {self._longest}"
            )
        if labels is None:
            return Arrival(decoded, [])
        if missing := [sample for sample in decoded.ids if sample not in labels]:
            raise RemoteProtocolError(f"no labels for sample ids {missing}")
        rows = [labels[sample] for sample in decoded.ids]
        for length, row in zip(lengths, rows, strict=True):
            if len(row) != (1 if self._classifies else length):
                raise RemoteProtocolError(
                    f"{counted(len(row), 'label')} for an activation of {counted(length, 'token')}"
                )
            if int(row.max()) >= self._num_labels:
                kind = "number of classes" if self._classifies else "vocabulary's size"
                raise RemoteProtocolError(f"a label of {int(row.max())}; the {kind} is {self._num_labels}")
        return Arrival(decoded, rows)
