"""Who trains when, and when a round is over. This is the plain way: everybody waits for everybody."""

from splitcom.aggregation import Update
from splitcom.amount import counted
from splitcom.scheduling.chunks import Chunks
from splitcom.scheduling.sampling import sample_clients
from splitcom.scheduling.scheduled import Scheduled
from splitcom.server.conversations import Rejoined
from splitcom.server.masked import MaskedSum
from splitcom.server.part import ServerRun
from splitcom.server.state import Task
from splitcom.server.steps import Steps
from splitcom.state import State
from splitcom.training.plan import num_round_batches, progress_of
from splitcom.training.segments import segment_due


class Lockstep(Scheduled):
    """Every step waits for one batch of each client, and a round for every client's last one.

    With `federation.variance.estimate` a round is trained in chunks of equally many steps, and ends for all at once.
    """

    def __init__(self, run: ServerRun, steps: Steps) -> None:
        super().__init__(run, steps)
        is_chunked = self._config.federation.variance.estimate is not None
        self._chunks = Chunks(self._config, self._states) if is_chunked else None

    def train(self, round_index: int) -> None:
        """Run a round; raises Rejoined where too few clients come to its end."""
        settings, shared = self._config.federation, self._adapter
        chosen = sample_clients(self._clients.ready, settings.num_sampled, self._config.seed, round_index)
        masks = self._masked_sum()
        shares = {} if masks is None else masks.begin(chosen, round_index)
        if masks is not None:
            chosen = [*shares]
        num_steps, chunks = self._num_steps(chosen, round_index), self._chunks
        along_last = chunks is not None and chunks.begin(round_index, shared.version, shared.tensors, chosen)
        for place, name in enumerate(chosen):
            task = Task(
                round_index,
                shared.version,
                chunk_steps=0 if chunks is None else num_steps,
                along_last=along_last,
                segment=segment_due(place, round_index, settings.segments),
            )
            self._steps.begin(name, task, shares.get(name, ()))
        updates = self._collect_updates(chosen, round_index, num_steps)
        if len(updates) < settings.min_clients:
            raise Rejoined(f"round {round_index} ended with {counted(len(updates), 'client')}")
        brought = [updates[name] for name in chosen if name in updates]
        if chunks is not None:
            chunks.end(brought)
        shared.merge(brought if masks is None else [masks.end(updates)])

    def _masked_sum(self) -> MaskedSum | None:
        """What makes a sum under masks of the round's updates, if the run asks for it and there are some."""
        part, steps = self._config.federation.secure_aggregation, self._steps
        if part is None or not self._adapter.tensors or not steps.renews(is_frozen=steps.freezes_fronts):
            return None
        return MaskedSum(ServerRun(self._config, self._clients, self._states, self._adapter), part)

    def _num_steps(self, names: list[str], round_index: int) -> int:
        """Of a round, or of a chunk of it: the most that one of these clients has."""
        return max(
            (
                num_round_batches(
                    self._clients.peers[name].num_samples, self._config.of_client(name), round_index
                )
                for name in names
            ),
            default=1,
        )

    def _collect_updates(self, chosen: list[str], round_index: int, num_steps: int) -> dict[str, Update]:
        """Steps until every client has ended its round; one with fewer batches simply ends earlier."""
        training = list(chosen)
        updates: dict[str, Update] = {}
        step = 0
        while training:
            brought = self._steps.receive(self._clients.collect(training))
            updates |= brought.updates
            self._judge(brought.sketches)
            training = [*brought.arrivals, *brought.sketches]
            if brought.arrivals:
                progress = progress_of(self._config, round_index, min(step, num_steps - 1), num_steps)
                if self._chunks is not None:  # nobody knows how many steps the round will have
                    progress = progress_of(self._config, round_index, 0, 1)
                self._steps.step(brought.arrivals, (round_index, step), max(num_steps, step + 1), progress)
                step += 1
        return updates

    def _judge(self, sketches: dict[str, bytes]) -> None:
        """Clients have ended a chunk: tell them whether there is another one."""
        if not sketches or self._chunks is None:
            return
        found = {}
        for name, sketch in sketches.items():
            with self._clients.refusing(name):
                found[name] = self._chunks.read(sketch)
        if found := dict(self._clients.each(found)):
            self._steps.go_on(found, more=self._chunks.goes_on(found.values()))

    def settle(self, round_index: int, *, is_last: bool) -> None:
        """Nothing to do: a round ends when everybody has ended it."""

    def state(self) -> State:
        """From what the last round began, and how far clients may be apart."""
        return super().state() if self._chunks is None else self._chunks.state()

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint."""
        super().load_state(state)
        if self._chunks is not None:
            self._chunks.load_state(state)
