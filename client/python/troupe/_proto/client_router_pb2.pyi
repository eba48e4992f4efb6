from troupe._proto import common_pb2 as _common_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DEGRADE_UNSPECIFIED: Degrade
DESCRIPTOR: _descriptor.FileDescriptor
EXPERTS: InfoKind
FAIL: Degrade
INFO_UNSPECIFIED: InfoKind
MODEL: InfoKind
NODES: InfoKind
RENORMALISE: Degrade
STATUS: InfoKind
SUBSTITUTE: Degrade
WAIT: Degrade

class ClientToRouter(_message.Message):
    __slots__ = ["experts", "hello", "info", "layer"]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    experts: ExpertsRequest
    hello: _common_pb2.Hello
    info: InfoRequest
    layer: LayerRequest
    def __init__(self, hello: _Optional[_Union[_common_pb2.Hello, _Mapping]] = ..., layer: _Optional[_Union[LayerRequest, _Mapping]] = ..., experts: _Optional[_Union[ExpertsRequest, _Mapping]] = ..., info: _Optional[_Union[InfoRequest, _Mapping]] = ...) -> None: ...

class ExpertsRequest(_message.Message):
    __slots__ = ["client_id", "degrade", "expert_ids", "expert_weights", "hidden", "layer", "request_id", "timeout_ms"]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    DEGRADE_FIELD_NUMBER: _ClassVar[int]
    EXPERT_IDS_FIELD_NUMBER: _ClassVar[int]
    EXPERT_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    degrade: Degrade
    expert_ids: _common_pb2.Tensor
    expert_weights: _common_pb2.Tensor
    hidden: _common_pb2.Tensor
    layer: str
    request_id: int
    timeout_ms: int
    def __init__(self, request_id: _Optional[int] = ..., client_id: _Optional[str] = ..., layer: _Optional[str] = ..., hidden: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., expert_ids: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., expert_weights: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., degrade: _Optional[_Union[Degrade, str]] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ["error", "request_id"]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    error: _common_pb2.Error
    request_id: int
    def __init__(self, request_id: _Optional[int] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ...) -> None: ...

class InfoReply(_message.Message):
    __slots__ = ["json", "request_id"]
    JSON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    json: str
    request_id: int
    def __init__(self, request_id: _Optional[int] = ..., json: _Optional[str] = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ["kind", "layer", "request_id"]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    kind: InfoKind
    layer: str
    request_id: int
    def __init__(self, request_id: _Optional[int] = ..., kind: _Optional[_Union[InfoKind, str]] = ..., layer: _Optional[str] = ...) -> None: ...

class LayerReply(_message.Message):
    __slots__ = ["epoch", "expert_ids", "expert_weights", "flags", "output", "request_id", "routed_output"]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EXPERT_IDS_FIELD_NUMBER: _ClassVar[int]
    EXPERT_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTED_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    expert_ids: _common_pb2.Tensor
    expert_weights: _common_pb2.Tensor
    flags: _common_pb2.Tensor
    output: _common_pb2.Tensor
    request_id: int
    routed_output: _common_pb2.Tensor
    def __init__(self, request_id: _Optional[int] = ..., epoch: _Optional[int] = ..., output: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., routed_output: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., expert_ids: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., expert_weights: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., flags: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ...) -> None: ...

class LayerRequest(_message.Message):
    __slots__ = ["client_id", "degrade", "hidden", "layer", "request_id", "timeout_ms"]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    DEGRADE_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    degrade: Degrade
    hidden: _common_pb2.Tensor
    layer: str
    request_id: int
    timeout_ms: int
    def __init__(self, request_id: _Optional[int] = ..., client_id: _Optional[str] = ..., layer: _Optional[str] = ..., hidden: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., degrade: _Optional[_Union[Degrade, str]] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class RouterToClient(_message.Message):
    __slots__ = ["failure", "info", "layer", "welcome"]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    failure: Failure
    info: InfoReply
    layer: LayerReply
    welcome: _common_pb2.Welcome
    def __init__(self, welcome: _Optional[_Union[_common_pb2.Welcome, _Mapping]] = ..., layer: _Optional[_Union[LayerReply, _Mapping]] = ..., info: _Optional[_Union[InfoReply, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Degrade(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class InfoKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
