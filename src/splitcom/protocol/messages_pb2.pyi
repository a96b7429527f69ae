from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Message(_message.Message):
    __slots__ = ("hello", "welcome", "round_start", "activation", "gradient", "reference_lost", "round_end", "evaluation_start", "evaluation_batch", "evaluation_next", "evaluation_end", "finish", "failure", "save_state", "state_saved", "activation_up", "activation_down", "gradient_up", "evaluation_up", "evaluation_down", "round_paused", "round_abort", "chunk_end", "chunk_next", "mask_start", "mask_keys", "mask_peers", "mask_shares", "mask_open", "mask_opened")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ROUND_START_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_LOST_FIELD_NUMBER: _ClassVar[int]
    ROUND_END_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_START_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_BATCH_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_NEXT_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_END_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    SAVE_STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_SAVED_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_UP_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_DOWN_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_UP_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_UP_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_DOWN_FIELD_NUMBER: _ClassVar[int]
    ROUND_PAUSED_FIELD_NUMBER: _ClassVar[int]
    ROUND_ABORT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_END_FIELD_NUMBER: _ClassVar[int]
    CHUNK_NEXT_FIELD_NUMBER: _ClassVar[int]
    MASK_START_FIELD_NUMBER: _ClassVar[int]
    MASK_KEYS_FIELD_NUMBER: _ClassVar[int]
    MASK_PEERS_FIELD_NUMBER: _ClassVar[int]
    MASK_SHARES_FIELD_NUMBER: _ClassVar[int]
    MASK_OPEN_FIELD_NUMBER: _ClassVar[int]
    MASK_OPENED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    welcome: Welcome
    round_start: RoundStart
    activation: Activation
    gradient: Gradient
    reference_lost: ReferenceLost
    round_end: RoundEnd
    evaluation_start: EvaluationStart
    evaluation_batch: EvaluationBatch
    evaluation_next: EvaluationNext
    evaluation_end: EvaluationEnd
    finish: Finish
    failure: Failure
    save_state: SaveState
    state_saved: StateSaved
    activation_up: ActivationUp
    activation_down: ActivationDown
    gradient_up: GradientUp
    evaluation_up: EvaluationUp
    evaluation_down: EvaluationDown
    round_paused: RoundPaused
    round_abort: RoundAbort
    chunk_end: ChunkEnd
    chunk_next: ChunkNext
    mask_start: MaskStart
    mask_keys: MaskKeys
    mask_peers: MaskPeers
    mask_shares: MaskShares
    mask_open: MaskOpen
    mask_opened: MaskOpened
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., round_start: _Optional[_Union[RoundStart, _Mapping]] = ..., activation: _Optional[_Union[Activation, _Mapping]] = ..., gradient: _Optional[_Union[Gradient, _Mapping]] = ..., reference_lost: _Optional[_Union[ReferenceLost, _Mapping]] = ..., round_end: _Optional[_Union[RoundEnd, _Mapping]] = ..., evaluation_start: _Optional[_Union[EvaluationStart, _Mapping]] = ..., evaluation_batch: _Optional[_Union[EvaluationBatch, _Mapping]] = ..., evaluation_next: _Optional[_Union[EvaluationNext, _Mapping]] = ..., evaluation_end: _Optional[_Union[EvaluationEnd, _Mapping]] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., save_state: _Optional[_Union[SaveState, _Mapping]] = ..., state_saved: _Optional[_Union[StateSaved, _Mapping]] = ..., activation_up: _Optional[_Union[ActivationUp, _Mapping]] = ..., activation_down: _Optional[_Union[ActivationDown, _Mapping]] = ..., gradient_up: _Optional[_Union[GradientUp, _Mapping]] = ..., evaluation_up: _Optional[_Union[EvaluationUp, _Mapping]] = ..., evaluation_down: _Optional[_Union[EvaluationDown, _Mapping]] = ..., round_paused: _Optional[_Union[RoundPaused, _Mapping]] = ..., round_abort: _Optional[_Union[RoundAbort, _Mapping]] = ..., chunk_end: _Optional[_Union[ChunkEnd, _Mapping]] = ..., chunk_next: _Optional[_Union[ChunkNext, _Mapping]] = ..., mask_start: _Optional[_Union[MaskStart, _Mapping]] = ..., mask_keys: _Optional[_Union[MaskKeys, _Mapping]] = ..., mask_peers: _Optional[_Union[MaskPeers, _Mapping]] = ..., mask_shares: _Optional[_Union[MaskShares, _Mapping]] = ..., mask_open: _Optional[_Union[MaskOpen, _Mapping]] = ..., mask_opened: _Optional[_Union[MaskOpened, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_version", "client", "model_fingerprint", "num_samples", "num_held_out", "saved_rounds", "adapter_digest")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    NUM_HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    SAVED_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    client: str
    model_fingerprint: str
    num_samples: int
    num_held_out: int
    saved_rounds: _containers.RepeatedScalarFieldContainer[int]
    adapter_digest: bytes
    def __init__(self, protocol_version: _Optional[int] = ..., client: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., num_samples: _Optional[int] = ..., num_held_out: _Optional[int] = ..., saved_rounds: _Optional[_Iterable[int]] = ..., adapter_digest: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("config_toml", "round")
    CONFIG_TOML_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    config_toml: str
    round: int
    def __init__(self, config_toml: _Optional[str] = ..., round: _Optional[int] = ...) -> None: ...

class RoundStart(_message.Message):
    __slots__ = ("cut", "round", "adapter_version", "adapter", "thresholds", "steps", "first_step", "place", "segment", "share", "chunk_steps", "along_last", "frozen", "mask_shares")
    class ThresholdsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class StepsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CUT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_STEPS_FIELD_NUMBER: _ClassVar[int]
    ALONG_LAST_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    MASK_SHARES_FIELD_NUMBER: _ClassVar[int]
    cut: int
    round: int
    adapter_version: int
    adapter: bytes
    thresholds: _containers.ScalarMap[str, float]
    steps: _containers.ScalarMap[str, float]
    first_step: int
    place: float
    segment: int
    share: float
    chunk_steps: int
    along_last: bool
    frozen: bool
    mask_shares: _containers.RepeatedCompositeFieldContainer[MaskShare]
    def __init__(self, cut: _Optional[int] = ..., round: _Optional[int] = ..., adapter_version: _Optional[int] = ..., adapter: _Optional[bytes] = ..., thresholds: _Optional[_Mapping[str, float]] = ..., steps: _Optional[_Mapping[str, float]] = ..., first_step: _Optional[int] = ..., place: _Optional[float] = ..., segment: _Optional[int] = ..., share: _Optional[float] = ..., chunk_steps: _Optional[int] = ..., along_last: _Optional[bool] = ..., frozen: _Optional[bool] = ..., mask_shares: _Optional[_Iterable[_Union[MaskShare, _Mapping]]] = ...) -> None: ...

class Activation(_message.Message):
    __slots__ = ("step", "activation", "labels")
    STEP_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    step: int
    activation: bytes
    labels: bytes
    def __init__(self, step: _Optional[int] = ..., activation: _Optional[bytes] = ..., labels: _Optional[bytes] = ...) -> None: ...

class Gradient(_message.Message):
    __slots__ = ("step", "gradient", "pause")
    STEP_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    step: int
    gradient: bytes
    pause: bool
    def __init__(self, step: _Optional[int] = ..., gradient: _Optional[bytes] = ..., pause: _Optional[bool] = ...) -> None: ...

class ActivationUp(_message.Message):
    __slots__ = ("step", "activation")
    STEP_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    step: int
    activation: bytes
    def __init__(self, step: _Optional[int] = ..., activation: _Optional[bytes] = ...) -> None: ...

class ActivationDown(_message.Message):
    __slots__ = ("step", "activation")
    STEP_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    step: int
    activation: bytes
    def __init__(self, step: _Optional[int] = ..., activation: _Optional[bytes] = ...) -> None: ...

class GradientUp(_message.Message):
    __slots__ = ("step", "gradient", "num_labels")
    STEP_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    NUM_LABELS_FIELD_NUMBER: _ClassVar[int]
    step: int
    gradient: bytes
    num_labels: int
    def __init__(self, step: _Optional[int] = ..., gradient: _Optional[bytes] = ..., num_labels: _Optional[int] = ...) -> None: ...

class ReferenceLost(_message.Message):
    __slots__ = ("step", "sample_ids")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    step: int
    sample_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, step: _Optional[int] = ..., sample_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class RoundEnd(_message.Message):
    __slots__ = ("round", "num_tokens", "adapter", "num_steps", "loss_sum", "num_labels", "num_correct", "num_released", "num_updates")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    LOSS_SUM_FIELD_NUMBER: _ClassVar[int]
    NUM_LABELS_FIELD_NUMBER: _ClassVar[int]
    NUM_CORRECT_FIELD_NUMBER: _ClassVar[int]
    NUM_RELEASED_FIELD_NUMBER: _ClassVar[int]
    NUM_UPDATES_FIELD_NUMBER: _ClassVar[int]
    round: int
    num_tokens: int
    adapter: bytes
    num_steps: int
    loss_sum: float
    num_labels: int
    num_correct: int
    num_released: int
    num_updates: int
    def __init__(self, round: _Optional[int] = ..., num_tokens: _Optional[int] = ..., adapter: _Optional[bytes] = ..., num_steps: _Optional[int] = ..., loss_sum: _Optional[float] = ..., num_labels: _Optional[int] = ..., num_correct: _Optional[int] = ..., num_released: _Optional[int] = ..., num_updates: _Optional[int] = ...) -> None: ...

class ChunkEnd(_message.Message):
    __slots__ = ("sketch",)
    SKETCH_FIELD_NUMBER: _ClassVar[int]
    sketch: bytes
    def __init__(self, sketch: _Optional[bytes] = ...) -> None: ...

class ChunkNext(_message.Message):
    __slots__ = ("more",)
    MORE_FIELD_NUMBER: _ClassVar[int]
    more: bool
    def __init__(self, more: _Optional[bool] = ...) -> None: ...

class RoundPaused(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RoundAbort(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EvaluationStart(_message.Message):
    __slots__ = ("adapter_version", "adapter", "round", "exact", "max_samples", "cut")
    ADAPTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    adapter_version: int
    adapter: bytes
    round: int
    exact: bool
    max_samples: int
    cut: int
    def __init__(self, adapter_version: _Optional[int] = ..., adapter: _Optional[bytes] = ..., round: _Optional[int] = ..., exact: _Optional[bool] = ..., max_samples: _Optional[int] = ..., cut: _Optional[int] = ...) -> None: ...

class EvaluationBatch(_message.Message):
    __slots__ = ("activation", "labels")
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    activation: bytes
    labels: bytes
    def __init__(self, activation: _Optional[bytes] = ..., labels: _Optional[bytes] = ...) -> None: ...

class EvaluationNext(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EvaluationUp(_message.Message):
    __slots__ = ("activation",)
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    activation: bytes
    def __init__(self, activation: _Optional[bytes] = ...) -> None: ...

class EvaluationDown(_message.Message):
    __slots__ = ("activation",)
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    activation: bytes
    def __init__(self, activation: _Optional[bytes] = ...) -> None: ...

class EvaluationEnd(_message.Message):
    __slots__ = ("loss_sum", "num_labels", "num_correct", "num_released")
    LOSS_SUM_FIELD_NUMBER: _ClassVar[int]
    NUM_LABELS_FIELD_NUMBER: _ClassVar[int]
    NUM_CORRECT_FIELD_NUMBER: _ClassVar[int]
    NUM_RELEASED_FIELD_NUMBER: _ClassVar[int]
    loss_sum: float
    num_labels: int
    num_correct: int
    num_released: int
    def __init__(self, loss_sum: _Optional[float] = ..., num_labels: _Optional[int] = ..., num_correct: _Optional[int] = ..., num_released: _Optional[int] = ...) -> None: ...

class MaskStart(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: int
    def __init__(self, round: _Optional[int] = ...) -> None: ...

class MaskKeys(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: MemberKeys
    def __init__(self, keys: _Optional[_Union[MemberKeys, _Mapping]] = ...) -> None: ...

class MemberKeys(_message.Message):
    __slots__ = ("sealing", "masking")
    SEALING_FIELD_NUMBER: _ClassVar[int]
    MASKING_FIELD_NUMBER: _ClassVar[int]
    sealing: bytes
    masking: bytes
    def __init__(self, sealing: _Optional[bytes] = ..., masking: _Optional[bytes] = ...) -> None: ...

class MaskPeers(_message.Message):
    __slots__ = ("keys", "own")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[MemberKeys]
    own: int
    def __init__(self, keys: _Optional[_Iterable[_Union[MemberKeys, _Mapping]]] = ..., own: _Optional[int] = ...) -> None: ...

class MaskShare(_message.Message):
    __slots__ = ("member", "share")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    member: int
    share: bytes
    def __init__(self, member: _Optional[int] = ..., share: _Optional[bytes] = ...) -> None: ...

class MaskShares(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.RepeatedCompositeFieldContainer[MaskShare]
    def __init__(self, shares: _Optional[_Iterable[_Union[MaskShare, _Mapping]]] = ...) -> None: ...

class MaskOpen(_message.Message):
    __slots__ = ("arrived",)
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    arrived: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, arrived: _Optional[_Iterable[int]] = ...) -> None: ...

class MaskOpened(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.RepeatedCompositeFieldContainer[MaskShare]
    def __init__(self, shares: _Optional[_Iterable[_Union[MaskShare, _Mapping]]] = ...) -> None: ...

class SaveState(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: int
    def __init__(self, round: _Optional[int] = ...) -> None: ...

class StateSaved(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Finish(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Failure(_message.Message):
    __slots__ = ("reason", "diverged")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DIVERGED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    diverged: bool
    def __init__(self, reason: _Optional[str] = ..., diverged: _Optional[bool] = ...) -> None: ...
