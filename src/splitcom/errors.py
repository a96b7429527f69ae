"""Every exception that the package raises on purpose; knows nothing of the rest of the package.

SplitComError
├── ConfigError            a configuration file, key or value
│   └── SpecError          the text of a codec or a controller cannot be read
├── ModelError             a model that cannot be loaded
│   ├── CutError           ... or not be cut exactly
│   └── AdapterError       ... or an adapter that does not fit it
├── DataError              a data file, column or row
├── CodecError             a codec used wrongly
│   ├── NonFiniteError     a NaN or an infinity is about to be sent
│   ├── OutOfRangeError    a number is beyond what the codec's number format holds
│   ├── PacketError        received bytes are no packet of this codec
│   └── UnknownReference   a packet builds on a reference that is not held
├── ProtocolError
│   ├── LocalProtocolError   our side is about to break the protocol: a bug here
│   └── RemoteProtocolError  the other side broke it
├── IdentityError          a certificate, key or revocation list
├── TransportError         the other side cannot be reached
│   └── RefusedError       ... or will not have us: trying again is of no use
├── RunError               a run folder that cannot be written, read or resumed
└── MissingExtraError      an optional dependency that is not installed
"""

from collections.abc import Sequence


class SplitComError(Exception):
    """Base of every error below; the command line prints its text and exits with 1."""


class ConfigError(SplitComError):
    """A configuration file, key or value is wrong."""


class SpecError(ConfigError):
    """The text of a codec or a controller cannot be read; points at the place."""

    def __init__(self, message: str, spec: str, position: int) -> None:
        self.spec = spec
        self.position = position
        super().__init__(f"{message}\n  {spec}\n  {' ' * position}^")


class ModelError(SplitComError):
    """A model cannot be found or loaded."""


class CutError(ModelError):
    """A model cannot be cut exactly; says what was looked for and what was found."""


class AdapterError(ModelError):
    """An adapter does not fit the model."""


class DataError(SplitComError):
    """A data file, column or row is wrong."""


class CodecError(SplitComError):
    """A codec cannot do what it is asked."""


class NonFiniteError(CodecError):
    """A tensor about to be sent holds a NaN or an infinity."""


class OutOfRangeError(CodecError):
    """A tensor about to be sent holds a number beyond what the codec's number format holds."""


class PacketError(CodecError):
    """Received bytes are not a valid packet of the codec that was agreed on."""


class UnknownReference(CodecError):  # noqa: N818  (the protocol's own term)
    """A packet builds on references that the receiver does not hold in that version."""

    def __init__(self, sample_ids: Sequence[int]) -> None:
        self.sample_ids = list(sample_ids)
        super().__init__(f"no matching reference for sample ids {self.sample_ids}")


class ProtocolError(SplitComError):
    """Base of the two protocol errors."""


class LocalProtocolError(ProtocolError):
    """This side is about to send what the protocol does not allow here: a bug in this program."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol does not allow here."""


class IdentityError(SplitComError):
    """A certificate, a key or a revocation list is missing, malformed, out of date, or would be overwritten."""


class TransportError(SplitComError):
    """The other side cannot be reached, or a connection cannot be made."""


class RefusedError(TransportError):
    """The other side has refused, for the reason in the message; trying again is of no use."""


class RunError(SplitComError):
    """A run folder cannot be written, read or resumed."""


class MissingExtraError(SplitComError):
    """Something needs an optional dependency that is not installed."""

    def __init__(self, what: str, extra: str, cause: ImportError) -> None:
        super().__init__(f"{what} needs the extra '{extra}' ({cause}): pip install 'splitcom[{extra}]'")


class PluginError(SplitComError):
    """A package that adds to this one cannot be loaded."""
