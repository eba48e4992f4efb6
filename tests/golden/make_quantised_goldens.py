#!/usr/bin/env python3
"""Make reference data for checkpoints whose weights are stored as fp8 and mxfp4.

    make_quantised_goldens.py --out quantised [--only CASE,CASE]

As make_goldens.py: tiny random models, whose matrices are quantised here and written as published checkpoints store
them. What is written is read back as bytes and dequantised by plain numpy from the formats' definitions, which has to
agree with torch's float8 type and with transformers' own mxfp4 code; transformers computes the layers in float32 on
those numbers. transformers 4.57.3, torch CPU.

  deepseek_v3_fp8   F8_E4M3, an F32 scale per 128 x 128 block; no size is a multiple of 128
  qwen3_moe_fp8     the same with BF16 scales and blocks of 32 x 48; attention too, so logits and texts as well
  gpt_oss_mxfp4     two e2m1 numbers a byte, U8 exponents per 32 inputs

Files of a case: config.json, model.safetensors, layers.safetensors and golden.json as in dev/; qwen3_moe_fp8 also
logits.safetensors and generation.json.
"""
import argparse
import copy
import json
import struct
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from make_goldens import Case, NoSafeInput, common, header, randomise, record_layers, record_model, write_json

TOKENS = 24
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def deepseek_v3():
    mla = dict(num_key_value_heads=4, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=12,
               q_lora_rank=24)
    return Case("deepseek_v3_fp8", "deepseek_v3", router_gain=1.2, config=common(
        **mla, hidden_size=272, num_hidden_layers=2, first_k_dense_replace=1, routed_scaling_factor=2.5,
        norm_topk_prob=True, intermediate_size=200, moe_intermediate_size=136, n_routed_experts=8, n_shared_experts=1,
        num_experts_per_tok=3, n_group=4, topk_group=2, scoring_func="sigmoid", topk_method="noaux_tc",
        moe_layer_freq=1, vocab_size=64))


def qwen3_moe():
    return Case("qwen3_moe_fp8", "qwen3_moe", config=common(
        hidden_size=144, head_dim=40, intermediate_size=96, num_experts=8, moe_intermediate_size=40,
        num_experts_per_tok=3, norm_topk_prob=True, vocab_size=128))


def gpt_oss():
    return Case("gpt_oss_mxfp4", "gpt_oss", expert_gain=3.0, config=common(
        hidden_size=96, head_dim=32, intermediate_size=64, num_local_experts=8, num_experts_per_tok=4,
        sliding_window=8, swiglu_limit=7.0, vocab_size=64))


# ---------------------------------------------------------------- writing
def fp8_of(weight, block, scale_dtype):
    """-> float8 numbers, scales [blocks, blocks]"""
    out, width = weight.shape
    rows, columns = -(-out // block[0]), -(-width // block[1])
    numbers, scales = torch.empty_like(weight), torch.empty(rows, columns, dtype=scale_dtype)
    for r in range(rows):
        for c in range(columns):
            place = (slice(r * block[0], (r + 1) * block[0]), slice(c * block[1], (c + 1) * block[1]))
            scales[r, c] = weight[place].abs().max() / 448
            numbers[place] = weight[place] / scales[r, c].float()
    return numbers.clamp(-448, 448).to(torch.float8_e4m3fn), scales


def mxfp4_of(weight):
    """[N, in, out] -> blocks [N, out, in / 32, 16], scales [N, out, in / 32]"""
    w = weight.transpose(1, 2).contiguous().numpy()
    w = w.reshape(*w.shape[:2], -1, 32)
    exponents = np.floor(np.log2(np.abs(w).max(-1))).astype(np.int32) - 2
    scaled = w / np.exp2(exponents)[..., None]
    codes = np.abs(np.abs(scaled)[..., None] - E2M1).argmin(-1).astype(np.uint8) | (scaled < 0).astype(np.uint8) * 8
    blocks = codes[..., 0::2] | codes[..., 1::2] << 4
    return torch.from_numpy(blocks), torch.from_numpy((exponents + 127).astype(np.uint8))


def quantised_state(model, case, block, scale_dtype):
    state = {}
    for name, value in model.state_dict().items():
        linear = name.endswith("_proj.weight") or name.endswith(("a_proj_with_mqa.weight",))
        if case.family == "gpt_oss" and name.endswith((".gate_up_proj", ".down_proj")):
            state[name + "_blocks"], state[name + "_scales"] = mxfp4_of(value)
        elif case.family != "gpt_oss" and linear:
            state[name], state[name + "_scale_inv"] = fp8_of(value, block, scale_dtype)
        else:
            state[name] = value if "e_score" in name else value.to(torch.bfloat16)
    return {name: value.contiguous() for name, value in state.items()}


# ---------------------------------------------------------------- reading back, by definition
def load_raw(path):
    """-> {name: (dtype, array)}; bf16 is widened to f32, fp8 and u8 stay bytes."""
    raw = path.read_bytes()
    head = 8 + struct.unpack("<Q", raw[:8])[0]
    found = {}
    for name, tensor in json.loads(raw[8:head]).items():
        if name == "__metadata__":
            continue
        begin, end = (head + place for place in tensor["data_offsets"])
        if tensor["dtype"] == "BF16":
            values = (np.frombuffer(raw[begin:end], np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw[begin:end], np.float32 if tensor["dtype"] == "F32" else np.uint8)
        found[name] = tensor["dtype"], values.reshape(tensor["shape"])
    return found


def e4m3_values(codes):
    sign, exponent, fraction = codes >> 7, (codes >> 3) & 15, codes & 7
    value = np.where(exponent == 0, fraction * 2.0**-9, (1 + fraction / 8) * np.exp2(exponent.astype(np.float64) - 7))
    return np.where(sign == 1, -value, value).astype(np.float32)


def dequantised(folder, block):
    """-> {parameter: float32 array}; what is not quantised is widened."""
    raw, found = load_raw(folder / "model.safetensors"), {}
    for name, (kind, values) in raw.items():
        if name.endswith(("_scale_inv", "_scales")):
            continue
        if name.endswith("_blocks"):
            stem = name.removesuffix("_blocks")
            scales = np.exp2(raw[stem + "_scales"][1].astype(np.float64) - 127)
            codes = np.stack([values & 15, values >> 4], -1).reshape(*scales.shape, 32)
            numbers = E2M1[codes & 7] * np.where(codes & 8, -1, 1)
            matrix = (numbers * scales[..., None]).astype(np.float32).reshape(*scales.shape[:2], -1)
            found[stem] = np.ascontiguousarray(matrix.transpose(0, 2, 1))
        elif kind == "F8_E4M3":
            scales = raw[name + "_scale_inv"][1]
            spread = scales.repeat(block[0], 0).repeat(block[1], 1)[:values.shape[0], :values.shape[1]]
            found[name] = e4m3_values(values) * spread
        else:
            found[name] = values
    return found


def check_against_libraries(state, found, block):
    for name, value in state.items():
        if value.dtype == torch.float8_e4m3fn:
            scales = state[name + "_scale_inv"].float()
            spread = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
            theirs = value.float() * spread[:value.shape[0], :value.shape[1]]
            np.testing.assert_array_equal(found[name], theirs.numpy(), err_msg=name)
        elif name.endswith("_blocks"):
            stem = name.removesuffix("_blocks")
            theirs = convert_moe_packed_tensors(value, state[stem + "_scales"], dtype=torch.float32)
            np.testing.assert_array_equal(found[stem], theirs.numpy(), err_msg=name)


# ---------------------------------------------------------------- a case
def make_case(case, block, scale_dtype, out, seed):
    gen = torch.Generator().manual_seed(seed)
    config = transformers.AutoConfig.for_model(case.family, **case.config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    randomise(model, case, gen)
    state = quantised_state(model, case, block, scale_dtype)
    config.architectures, config.dtype = [type(model).__name__], torch.bfloat16
    config.save_pretrained(out)
    written = json.loads((out / "config.json").read_text())
    written["quantization_config"] = {"quant_method": "mxfp4"} if case.family == "gpt_oss" else {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": list(block)}
    write_json(out / "config.json", written)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})

    found = dequantised(out, block)
    check_against_libraries(state, found, block)
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in found.items()}, strict=True)
    models = {"f32": model.eval()}
    for key, dtype in {"bf16": torch.bfloat16, "f64": torch.float64}.items():
        models[key] = copy.deepcopy(model).to(dtype)
    for name, module in models["f64"].named_modules():  # its gate returns float32 weights
        if type(module).__name__ == "DeepseekV3TopkRouter":
            module.register_forward_hook(lambda gate, args, result: (result[0], result[1].double()))
    layers, facts = record_layers(models, case, gen, TOKENS)
    save_file(layers, out / "layers.safetensors")
    golden = header(case, seed, "mxfp4" if case.family == "gpt_oss" else "float8_e4m3fn", TOKENS)
    golden["measured"] = facts
    if case.family == "qwen3_moe":
        logits, generation, golden["measured"]["model"] = record_model(models, case, gen, case.config["vocab_size"])
        save_file(logits, out / "logits.safetensors")
        write_json(out / "generation.json", generation)
    write_json(out / "golden.json", golden)


CASES = [(deepseek_v3, (128, 128), torch.float32), (qwen3_moe, (32, 48), torch.bfloat16), (gpt_oss, (1, 32), None)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    for number, (make, block, scale_dtype) in enumerate(CASES):
        case = make()
        if args.only and case.name not in args.only.split(","):
            continue
        out = args.out / case.name
        out.mkdir(parents=True, exist_ok=True)
        for seed in range(3000 + 20 * number, 3020 + 20 * number):
            try:
                make_case(case, block, scale_dtype, out, seed)
                break
            except NoSafeInput as reason:
                print(f"{case.name}: seed {seed}: {reason}", flush=True)
        else:
            raise SystemExit(f"{case.name}: no seed gives clear choices")
        print(f"{case.name}: seed {seed}, {sum(f.stat().st_size for f in out.iterdir()) // 1024} KiB", flush=True)


if __name__ == "__main__":
    main()
