from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

ACTIVE: ExpertState
BF16: DType
CANCELLED: ErrorCode
CONFLICT: ErrorCode
COORDINATOR: NodeRole
CORRUPT: ErrorCode
DESCRIPTOR: _descriptor.FileDescriptor
DORMANT: ExpertState
DRAINING: NodeState
DTYPE_UNSPECIFIED: DType
ERROR_UNSPECIFIED: ErrorCode
EXPERT: NodeRole
EXPERT_DRAINING: ExpertState
EXPERT_STATE_UNSPECIFIED: ExpertState
F16: DType
F32: DType
F8_E4M3: DType
F8_E8M0: DType
HANDSHAKE_REQUIRED: ErrorCode
I32: DType
INTERNAL: ErrorCode
INVALID_REQUEST: ErrorCode
IN_PROGRESS: ErrorCode
JOINING: NodeState
LOST: NodeState
NODE_STATE_UNSPECIFIED: NodeState
NOT_FOUND: ErrorCode
NO_SPACE: ErrorCode
OUT_OF_MEMORY: ErrorCode
OVERLOADED: ErrorCode
PERMISSION_DENIED: ErrorCode
PRUNED: ExpertState
QUARANTINED: NodeState
ROLE_UNSPECIFIED: NodeRole
ROUTER: NodeRole
SERVING: NodeState
STALE_EPOCH: ErrorCode
TIMEOUT: ErrorCode
TOO_LARGE: ErrorCode
U8: DType
UNAVAILABLE: ErrorCode
UNKNOWN_EXPERT: ErrorCode
WARMING: ExpertState
WRONG_CLUSTER: ErrorCode
WRONG_VERSION: ErrorCode

class ClusterMap(_message.Message):
    __slots__ = ["cluster_id", "epoch", "experts", "model_fingerprint", "nodes", "term"]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    epoch: int
    experts: _containers.RepeatedCompositeFieldContainer[MapExpert]
    model_fingerprint: str
    nodes: _containers.RepeatedCompositeFieldContainer[MapNode]
    term: int
    def __init__(self, term: _Optional[int] = ..., epoch: _Optional[int] = ..., cluster_id: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[MapNode, _Mapping]]] = ..., experts: _Optional[_Iterable[_Union[MapExpert, _Mapping]]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ["code", "message", "retry_after_ms"]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: ErrorCode
    message: str
    retry_after_ms: int
    def __init__(self, code: _Optional[_Union[ErrorCode, str]] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ["cluster_id", "incarnation", "node", "segment", "software", "wire_major", "wire_minor"]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    WIRE_MAJOR_FIELD_NUMBER: _ClassVar[int]
    WIRE_MINOR_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    incarnation: int
    node: str
    segment: SharedSegment
    software: str
    wire_major: int
    wire_minor: int
    def __init__(self, wire_major: _Optional[int] = ..., wire_minor: _Optional[int] = ..., cluster_id: _Optional[str] = ..., node: _Optional[str] = ..., incarnation: _Optional[int] = ..., software: _Optional[str] = ..., segment: _Optional[_Union[SharedSegment, _Mapping]] = ...) -> None: ...

class MapExpert(_message.Message):
    __slots__ = ["digest", "expert", "layer", "masked", "replicas", "state", "version"]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    expert: int
    layer: int
    masked: bool
    replicas: _containers.RepeatedCompositeFieldContainer[MapReplica]
    state: ExpertState
    version: int
    def __init__(self, layer: _Optional[int] = ..., expert: _Optional[int] = ..., state: _Optional[_Union[ExpertState, str]] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ..., replicas: _Optional[_Iterable[_Union[MapReplica, _Mapping]]] = ..., masked: bool = ...) -> None: ...

class MapNode(_message.Message):
    __slots__ = ["data_address", "incarnation", "machine_id", "name", "public_key", "role", "state"]
    DATA_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MACHINE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    data_address: str
    incarnation: int
    machine_id: str
    name: str
    public_key: str
    role: NodeRole
    state: NodeState
    def __init__(self, name: _Optional[str] = ..., role: _Optional[_Union[NodeRole, str]] = ..., state: _Optional[_Union[NodeState, str]] = ..., incarnation: _Optional[int] = ..., data_address: _Optional[str] = ..., public_key: _Optional[str] = ..., machine_id: _Optional[str] = ...) -> None: ...

class MapReplica(_message.Message):
    __slots__ = ["node", "slot", "version"]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    node: int
    slot: int
    version: int
    def __init__(self, node: _Optional[int] = ..., slot: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class SharedRange(_message.Message):
    __slots__ = ["bytes", "offset"]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    offset: int
    def __init__(self, offset: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class SharedSegment(_message.Message):
    __slots__ = ["bytes", "machine_id", "name"]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    MACHINE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    machine_id: str
    name: str
    def __init__(self, name: _Optional[str] = ..., bytes: _Optional[int] = ..., machine_id: _Optional[str] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ["checksum", "dtype", "part", "shape", "shared"]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    checksum: int
    dtype: DType
    part: int
    shape: _containers.RepeatedScalarFieldContainer[int]
    shared: SharedRange
    def __init__(self, dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., checksum: _Optional[int] = ..., part: _Optional[int] = ..., shared: _Optional[_Union[SharedRange, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ["cluster_id", "envelope_bytes_max", "incarnation", "node", "parts_max", "rows_per_request_max", "segment_mapped", "software", "tensor_bytes_max", "wire_major", "wire_minor"]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PARTS_MAX_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_REQUEST_MAX_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_MAPPED_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    TENSOR_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    WIRE_MAJOR_FIELD_NUMBER: _ClassVar[int]
    WIRE_MINOR_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    envelope_bytes_max: int
    incarnation: int
    node: str
    parts_max: int
    rows_per_request_max: int
    segment_mapped: bool
    software: str
    tensor_bytes_max: int
    wire_major: int
    wire_minor: int
    def __init__(self, wire_major: _Optional[int] = ..., wire_minor: _Optional[int] = ..., cluster_id: _Optional[str] = ..., node: _Optional[str] = ..., incarnation: _Optional[int] = ..., software: _Optional[str] = ..., tensor_bytes_max: _Optional[int] = ..., envelope_bytes_max: _Optional[int] = ..., parts_max: _Optional[int] = ..., rows_per_request_max: _Optional[int] = ..., segment_mapped: bool = ...) -> None: ...

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class ErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class NodeRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class NodeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class ExpertState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
