from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Frame(_message.Message):
    __slots__ = ("open", "opened", "chunk", "credit", "reset", "refused")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    open: Open
    opened: Opened
    chunk: Chunk
    credit: Credit
    reset: Reset
    refused: Refused
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., opened: _Optional[_Union[Opened, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ..., reset: _Optional[_Union[Reset, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("sequence", "offset", "window_bytes")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    WINDOW_BYTES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    offset: int
    window_bytes: int
    def __init__(self, sequence: _Optional[int] = ..., offset: _Optional[int] = ..., window_bytes: _Optional[int] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("protocol_version", "conversation", "resumes", "position")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    RESUMES_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    conversation: bytes
    resumes: bool
    position: Position
    def __init__(self, protocol_version: _Optional[int] = ..., conversation: _Optional[bytes] = ..., resumes: _Optional[bool] = ..., position: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: Position
    def __init__(self, position: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("sequence", "offset", "size")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    offset: int
    size: int
    def __init__(self, sequence: _Optional[int] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("sequence", "granted_bytes")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GRANTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    granted_bytes: int
    def __init__(self, sequence: _Optional[int] = ..., granted_bytes: _Optional[int] = ...) -> None: ...

class Reset(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Refused(_message.Message):
    __slots__ = ("code", "reason")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[Refused.Code]
        PROTOCOL_VERSION: _ClassVar[Refused.Code]
        CERTIFICATE: _ClassVar[Refused.Code]
        CONNECTED: _ClassVar[Refused.Code]
        FULL: _ClassVar[Refused.Code]
        MALFORMED: _ClassVar[Refused.Code]
        REJECTED: _ClassVar[Refused.Code]
        FAILED: _ClassVar[Refused.Code]
    UNSPECIFIED: Refused.Code
    PROTOCOL_VERSION: Refused.Code
    CERTIFICATE: Refused.Code
    CONNECTED: Refused.Code
    FULL: Refused.Code
    MALFORMED: Refused.Code
    REJECTED: Refused.Code
    FAILED: Refused.Code
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: Refused.Code
    reason: str
    def __init__(self, code: _Optional[_Union[Refused.Code, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class Inquiry(_message.Message):
    __slots__ = ("protocol_version", "package_version", "model_fingerprint")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    package_version: str
    model_fingerprint: str
    def __init__(self, protocol_version: _Optional[int] = ..., package_version: _Optional[str] = ..., model_fingerprint: _Optional[str] = ...) -> None: ...

class Description(_message.Message):
    __slots__ = ("protocol_version", "package_version", "run", "config_toml", "model_fingerprint")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    CONFIG_TOML_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    package_version: str
    run: str
    config_toml: str
    model_fingerprint: str
    def __init__(self, protocol_version: _Optional[int] = ..., package_version: _Optional[str] = ..., run: _Optional[str] = ..., config_toml: _Optional[str] = ..., model_fingerprint: _Optional[str] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("data", "answer_bytes")
    DATA_FIELD_NUMBER: _ClassVar[int]
    ANSWER_BYTES_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    answer_bytes: int
    def __init__(self, data: _Optional[bytes] = ..., answer_bytes: _Optional[int] = ...) -> None: ...

class FrontInquiry(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FrontListing(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[FrontFile]
    def __init__(self, files: _Optional[_Iterable[_Union[FrontFile, _Mapping]]] = ...) -> None: ...

class FrontFile(_message.Message):
    __slots__ = ("name", "size", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    sha256: bytes
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class FrontRequest(_message.Message):
    __slots__ = ("name", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset: int
    def __init__(self, name: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class FilePiece(_message.Message):
    __slots__ = ("name", "offset", "size", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset: int
    size: int
    data: bytes
    def __init__(self, name: _Optional[str] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
