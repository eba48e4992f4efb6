"""One hivemind server process: a share of the experts of a layer, as SwiGLU modules in bf16.

    servers.py --first E --count N --handlers P --weights FILE --ready FILE [--peer MULTIADDR]

Weights: {"gate", "up": bf16 [experts, width, hidden], "down": bf16 [experts, hidden, width]}, saved by torch. Writes its
multiaddress to the file --ready when it serves, then runs until it is killed.
"""
import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as functional
from hivemind.moe.server.layers.custom_experts import register_expert_class
from hivemind.moe.server.server import Server

arguments = argparse.ArgumentParser()
arguments.add_argument("--first", type=int, required=True)
arguments.add_argument("--count", type=int, required=True)
arguments.add_argument("--handlers", type=int, required=True, help="processes that take requests; 0: as many as hivemind wants")
arguments.add_argument("--weights", type=Path, required=True)
arguments.add_argument("--ready", type=Path, required=True)
arguments.add_argument("--peer", default=None)


def main():
    options = arguments.parse_args()
    torch.set_num_threads(2)
    weights = torch.load(options.weights, mmap=True)
    _, width, hidden_dim = weights["gate"].shape

    def sample(rows, hidden):
        return torch.empty((rows, hidden), dtype=torch.bfloat16)

    @register_expert_class("swiglu_bf16", sample)
    class SwiGlu(torch.nn.Module):
        def __init__(self, hidden):
            super().__init__()
            for name, shape in (("gate", (width, hidden)), ("up", (width, hidden)), ("down", (hidden, width))):
                setattr(self, name, torch.nn.Parameter(torch.zeros(shape, dtype=torch.bfloat16), requires_grad=False))

        def forward(self, x):
            h = functional.silu(functional.linear(x, self.gate)) * functional.linear(x, self.up)
            return functional.linear(h, self.down)

    uids = [f"expert.{e}" for e in range(options.first, options.first + options.count)]
    server = Server.create(expert_uids=uids, expert_cls="swiglu_bf16", hidden_dim=hidden_dim, optim_cls=None,
                           num_handlers=options.handlers or None, max_batch_size=8192, device="cpu",
                           initial_peers=[options.peer] if options.peer else (), start=False)
    for e, backend in zip(range(options.first, options.first + options.count), server.module_backends.values()):
        for name in ("gate", "up", "down"):
            getattr(backend.module, name).data.copy_(weights[name][e])
    server.run_in_background(await_ready=True)
    options.ready.write_text(str(server.dht.get_visible_maddrs()[0]))
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
