from troupe._proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DEGRADE_UNSPECIFIED: Degrade
DESCRIPTOR: _descriptor.FileDescriptor
EXPERTS: InfoKind
FAIL: Degrade
FINISH_LENGTH: FinishReason
FINISH_STOP: FinishReason
FINISH_UNSPECIFIED: FinishReason
INFO_UNSPECIFIED: InfoKind
MODEL: InfoKind
NODES: InfoKind
RENORMALISE: Degrade
STATUS: InfoKind
SUBSTITUTE: Degrade
WAIT: Degrade

class CancelRequest(_message.Message):
    __slots__ = ["client_id", "request_id"]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    request_id: int
    def __init__(self, request_id: _Optional[int] = ..., client_id: _Optional[str] = ...) -> None: ...

class ClientToRouter(_message.Message):
    __slots__ = ["cancel", "experts", "generate", "hello", "info", "inputs", "layer", "tokenize"]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    TOKENIZE_FIELD_NUMBER: _ClassVar[int]
    cancel: CancelRequest
    experts: ExpertsRequest
    generate: GenerateRequest
    hello: _common_pb2.Hello
    info: InfoRequest
    inputs: InputsRequest
    layer: LayerRequest
    tokenize: TokenizeRequest
    def __init__(self, hello: _Optional[_Union[_common_pb2.Hello, _Mapping]] = ..., layer: _Optional[_Union[LayerRequest, _Mapping]] = ..., experts: _Optional[_Union[ExpertsRequest, _Mapping]] = ..., info: _Optional[_Union[InfoRequest, _Mapping]] = ..., generate: _Optional[_Union[GenerateRequest, _Mapping]] = ..., cancel: _Optional[_Union[CancelRequest, _Mapping]] = ..., tokenize: _Optional[_Union[TokenizeRequest, _Mapping]] = ..., inputs: _Optional[_Union[InputsRequest, _Mapping]] = ...) -> None: ...

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
    __slots__ = ["elsewhere", "error", "request_id"]
    ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    elsewhere: bool
    error: _common_pb2.Error
    request_id: int
    def __init__(self, request_id: _Optional[int] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ..., elsewhere: bool = ...) -> None: ...

class GenerateAccepted(_message.Message):
    __slots__ = ["max_tokens", "prompt_tokens", "seed"]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    prompt_tokens: int
    seed: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class GenerateEnd(_message.Message):
    __slots__ = ["answer_tokens", "approximate_tokens", "cached_tokens", "prompt_tokens", "reason", "stop_match", "text"]
    ANSWER_TOKENS_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_MATCH_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    answer_tokens: int
    approximate_tokens: int
    cached_tokens: int
    prompt_tokens: int
    reason: FinishReason
    stop_match: str
    text: str
    def __init__(self, reason: _Optional[_Union[FinishReason, str]] = ..., text: _Optional[str] = ..., stop_match: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., answer_tokens: _Optional[int] = ..., approximate_tokens: _Optional[int] = ...) -> None: ...

class GenerateEvent(_message.Message):
    __slots__ = ["accepted", "end", "request_id", "tokens"]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    accepted: GenerateAccepted
    end: GenerateEnd
    request_id: int
    tokens: _containers.RepeatedCompositeFieldContainer[GeneratedToken]
    def __init__(self, request_id: _Optional[int] = ..., accepted: _Optional[_Union[GenerateAccepted, _Mapping]] = ..., tokens: _Optional[_Iterable[_Union[GeneratedToken, _Mapping]]] = ..., end: _Optional[_Union[GenerateEnd, _Mapping]] = ...) -> None: ...

class GenerateEvents(_message.Message):
    __slots__ = ["events"]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[GenerateEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[GenerateEvent, _Mapping]]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ["add_special_tokens", "client_id", "degrade", "ignore_eos", "logprobs", "max_tokens", "messages_json", "request_id", "resumed", "sampling", "skip_special_tokens", "stop", "stop_token_ids", "text", "timeout_ms", "tokens", "top_logprobs"]
    ADD_SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    DEGRADE_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_JSON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SKIP_SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    add_special_tokens: bool
    client_id: str
    degrade: Degrade
    ignore_eos: bool
    logprobs: bool
    max_tokens: int
    messages_json: str
    request_id: int
    resumed: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    skip_special_tokens: bool
    stop: _containers.RepeatedScalarFieldContainer[str]
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    text: str
    timeout_ms: int
    tokens: TokenList
    top_logprobs: int
    def __init__(self, request_id: _Optional[int] = ..., client_id: _Optional[str] = ..., text: _Optional[str] = ..., tokens: _Optional[_Union[TokenList, _Mapping]] = ..., messages_json: _Optional[str] = ..., resumed: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_tokens: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., ignore_eos: bool = ..., logprobs: bool = ..., top_logprobs: _Optional[int] = ..., skip_special_tokens: bool = ..., add_special_tokens: bool = ..., degrade: _Optional[_Union[Degrade, str]] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class GeneratedToken(_message.Message):
    __slots__ = ["flags", "id", "inexact_layers", "logprob", "position", "text", "top"]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    INEXACT_LAYERS_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    flags: int
    id: int
    inexact_layers: _containers.RepeatedScalarFieldContainer[int]
    logprob: float
    position: int
    text: str
    top: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    def __init__(self, id: _Optional[int] = ..., position: _Optional[int] = ..., text: _Optional[str] = ..., logprob: _Optional[float] = ..., top: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ..., flags: _Optional[int] = ..., inexact_layers: _Optional[_Iterable[int]] = ...) -> None: ...

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

class InputsReply(_message.Message):
    __slots__ = ["epoch", "gate_weights", "hidden", "request_id", "rows_seen"]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GATE_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_SEEN_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    gate_weights: _common_pb2.Tensor
    hidden: _common_pb2.Tensor
    request_id: int
    rows_seen: int
    def __init__(self, request_id: _Optional[int] = ..., epoch: _Optional[int] = ..., rows_seen: _Optional[int] = ..., hidden: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., gate_weights: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ...) -> None: ...

class InputsRequest(_message.Message):
    __slots__ = ["expert", "layer", "request_id"]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    expert: int
    layer: str
    request_id: int
    def __init__(self, request_id: _Optional[int] = ..., layer: _Optional[str] = ..., expert: _Optional[int] = ...) -> None: ...

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
    __slots__ = ["failure", "generate", "info", "inputs", "layer", "tokenize", "welcome"]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    TOKENIZE_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    failure: Failure
    generate: GenerateEvents
    info: InfoReply
    inputs: InputsReply
    layer: LayerReply
    tokenize: TokenizeReply
    welcome: _common_pb2.Welcome
    def __init__(self, welcome: _Optional[_Union[_common_pb2.Welcome, _Mapping]] = ..., layer: _Optional[_Union[LayerReply, _Mapping]] = ..., info: _Optional[_Union[InfoReply, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., generate: _Optional[_Union[GenerateEvents, _Mapping]] = ..., tokenize: _Optional[_Union[TokenizeReply, _Mapping]] = ..., inputs: _Optional[_Union[InputsReply, _Mapping]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ["frequency_penalty", "logit_bias", "min_p", "presence_penalty", "repetition_penalty", "seed", "temperature", "top_k", "top_p"]
    class LogitBiasEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    frequency_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    min_p: float
    presence_penalty: float
    repetition_penalty: float
    seed: int
    temperature: float
    top_k: int
    top_p: float
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., seed: _Optional[int] = ...) -> None: ...

class TokenList(_message.Message):
    __slots__ = ["ids"]
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ["id", "logprob", "text"]
    ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: int
    logprob: float
    text: str
    def __init__(self, id: _Optional[int] = ..., logprob: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class TokenizeReply(_message.Message):
    __slots__ = ["request_id", "text", "tokens"]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    text: str
    tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, request_id: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ...) -> None: ...

class TokenizeRequest(_message.Message):
    __slots__ = ["add_special_tokens", "messages_json", "request_id", "text", "tokens"]
    ADD_SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_JSON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    add_special_tokens: bool
    messages_json: str
    request_id: int
    text: str
    tokens: TokenList
    def __init__(self, request_id: _Optional[int] = ..., text: _Optional[str] = ..., tokens: _Optional[_Union[TokenList, _Mapping]] = ..., messages_json: _Optional[str] = ..., add_special_tokens: bool = ...) -> None: ...

class Degrade(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class InfoKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
