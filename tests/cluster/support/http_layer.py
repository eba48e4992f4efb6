"""POST /v1/layers/{layer} with numpy on both sides."""
from types import SimpleNamespace

import numpy as np

from support import safetensors
from support.cluster import http_request

CONTENT_TYPE = "application/vnd.safetensors"


def post_layer(http, layer, hidden, dtype="F32", metadata=None, timeout=60):
    """-> the answer's tensors as attributes, `epoch` and `raw_dtype_bytes`; AssertionError unless the status is 200."""
    values = hidden.astype(np.float16) if dtype == "F16" else hidden
    body = safetensors.encode({"hidden": values}, metadata, bf16={"hidden"} if dtype == "BF16" else ())
    status, headers, answer = http_request(f"{http}/v1/layers/{layer}", body, {"Content-Type": CONTENT_TYPE}, timeout)
    assert status == 200, f"{status}: {answer[:500]!r}"
    assert headers["Content-Type"] == CONTENT_TYPE
    tensors, found = safetensors.decode(answer)
    assert set(tensors) == {"output", "routed_output", "expert_ids", "expert_weights", "flags"}
    return SimpleNamespace(epoch=int(found["epoch"]), **tensors)
