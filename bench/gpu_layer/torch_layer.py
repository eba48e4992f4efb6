#!/usr/bin/env python3
"""The layers of gpu_check bench as PyTorch's grouped product computes them on the card.

usage: torch_layer.py [--device cuda:0] [--small]     --small: sizes at a sixty-fourth, to see that it runs

Prints lines "hidden width experts rows microseconds" (medians; rows, routing and sums stay on the card). Exit status 77
with the reason when there is no PyTorch with a grouped product, or no card for it.
"""
import argparse
import statistics
import sys
import time

LAYERS = [(2048, 1024, 64, 8), (7168, 2048, 32, 8)]  # hidden, width, experts, top-k
ROWS = [1, 8, 64, 512, 4096]
RUNS = 50


def skip(reason):
    print(f"skipped: PyTorch: {reason}")
    sys.exit(77)


def grouped_product_of(torch):
    for module, name in ((torch.nn.functional, "grouped_mm"), (torch, "_grouped_mm")):
        if hasattr(module, name):
            return getattr(module, name)
    skip(f"{torch.__version__} has no grouped product (2.8 and later have)")


def make_layer(torch, product, device, hidden, width, experts, top_k, rows):
    """-> a function that computes the layer once; what it needs lies on the device"""
    bf16 = {"device": device, "dtype": torch.bfloat16}
    gate_up = torch.randn(experts, 2 * width, hidden, **bf16) / hidden**0.5
    down = torch.randn(experts, hidden, width, **bf16) / width**0.5
    x = torch.randn(rows, hidden, **bf16)
    chosen = torch.rand(rows, experts, device=device).topk(top_k, dim=1).indices.flatten()
    weights = torch.rand(rows * top_k, 1, device=device)
    order = chosen.argsort()
    row_of = order // top_k
    ends = torch.bincount(chosen, minlength=experts).cumsum(0).to(torch.int32)
    weight_of = weights[order]

    def layer():
        products = product(x[row_of], gate_up.transpose(-2, -1), offs=ends)
        gate, up = products.chunk(2, dim=1)
        y = product(torch.nn.functional.silu(gate) * up, down.transpose(-2, -1), offs=ends)
        sums = torch.zeros(rows, hidden, device=device)
        return sums.index_add_(0, row_of, y * weight_of).to(torch.bfloat16)

    return layer


def median_seconds(torch, device, layer):
    def wait():
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    times = []
    for run in range(RUNS + 5):
        wait()
        begin = time.perf_counter()
        layer()
        wait()
        if run >= 5:
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    try:
        import torch
    except ImportError:
        skip("not installed for this python")
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        skip(f"{torch.__version__} sees no card")
    product = grouped_product_of(torch)
    divisor = 64 if given.small else 1
    for hidden, width, experts, top_k in LAYERS:
        for rows in ROWS:
            sizes = (hidden // divisor, width // divisor, experts)
            layer = make_layer(torch, product, given.device, *sizes, top_k, rows)
            print(*sizes, rows, f"{median_seconds(torch, given.device, layer) * 1e6:.1f}", flush=True)


if __name__ == "__main__":
    main()
