"""Measures the trained models and writes what the model card shows and what tests compare with:

    python3 examples/demo_model/train_report.py --work build/demo_model --model examples/demo_model

losses.svg, experts.svg, the part of README.md between its two `measured` marks, and greedy_texts.json. The model's loss and
texts are those of transformers' MixtralForCausalLM on the exported files, in float32; the loss of our own code is compared with it.
"""
import argparse
import dataclasses
import json
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, MixtralForCausalLM, __version__ as transformers_version

import train
from train_data import DOMAINS
from train_network import Network, Shape
from train_prompts import CHATS, PROMPTS, SAMPLES

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "troupe", "svg.fonttype": "none"})
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

HELD_OUT_TOKENS = 32768
"""Of each domain, in sequences of LONG_CONTEXT."""
GREEDY_TOKENS, GREEDY_TOKENS_MIN, PROMPTS_KEPT = 48, 16, 4
MARK_BEGIN, MARK_END = "<!-- measured: written by train_report.py -->", "<!-- end of measured -->"


def trained(kind, work):
    """The trained network with weights as bfloat16 stores them, computing in float32."""
    shape = dataclasses.replace(Shape() if kind == "moe" else Shape().dense(), compute=torch.float32)
    network = Network(shape)
    network.load_state_dict(torch.load(work / f"{kind}.pt")["network"])
    for parameter in network.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return network


@torch.no_grad()
def reference_loss(model, stream, tokens):
    """Mean cross-entropy by transformers, over the same windows as train.evaluate."""
    total, parts = 0.0, train.sequences(stream, tokens, 0, train.LONG_CONTEXT).split(4)
    for part in parts:
        logits = model(part[:, :-1]).logits
        total += F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()).item() * len(part)
    return total / sum(map(len, parts))


@torch.no_grad()
def greedy(model, tokenizer, ids):
    """{ids, text, finish_reason, margin}: what follows the prompt `ids`, and the smallest distance between the two largest logits."""
    answer, margin = [], float("inf")
    while len(answer) < GREEDY_TOKENS:
        best = model(torch.tensor([ids + answer])).logits[0, -1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        if best.indices[0].item() == model.config.eos_token_id:
            break
        answer.append(best.indices[0].item())
    return {"ids": answer, "text": tokenizer.decode(answer, skip_special_tokens=True), "margin": round(margin, 4),
            "finish_reason": "length" if len(answer) == GREEDY_TOKENS else "stop"}


def greedy_texts(model, tokenizer):
    """For each domain the PROMPTS_KEPT prompts whose choices were clearest, of those not soon at an end; and every chat."""
    prompts, chats = [], []
    for domain in DOMAINS:
        candidates = [{"domain": domain, "prompt": prompt, "prompt_ids": tokenizer(prompt).input_ids} for prompt in PROMPTS[domain]]
        candidates = [case | greedy(model, tokenizer, case["prompt_ids"]) for case in candidates]
        candidates = [case for case in candidates if len(case["ids"]) >= GREEDY_TOKENS_MIN]
        prompts += sorted(candidates, key=lambda case: -case["margin"])[:PROMPTS_KEPT]
    for domain, messages in CHATS:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        chats.append({"domain": domain, "messages": messages, "prompt_ids": ids} | greedy(model, tokenizer, ids))
    return {"made_by": f"train_report.py, transformers {transformers_version}, float32", "max_tokens": GREEDY_TOKENS,
            "prompts": prompts, "chats": chats}


def records(kind, work):
    return [json.loads(line) for line in (work / f"{kind}.jsonl").read_text().splitlines()]


def plot_losses(work, path):
    figure, axes = pyplot.subplots(1, len(DOMAINS), figsize=(11, 3.2), layout="constrained")
    for axis, domain in zip(axes, DOMAINS):
        for kind, label, color in (("moe", "mixture of experts", "#c2410c"), ("dense", "dense, same active size", "#475569")):
            lines = records(kind, work)
            axis.plot([r["tokens"] / 1e6 for r in lines], [r["held_out"][domain] for r in lines], label=label, color=color)
        last = [records(kind, work)[-1]["held_out"][domain] for kind in ("moe", "dense")]
        axis.set_ylim(min(last) - 0.05 * max(last), 1.6 * max(last))
        axis.set_title(domain)
        axis.set_xlabel("million tokens")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("held-out loss, nats per token")
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def plot_experts(shares, path):
    layers, experts = len(shares[DOMAINS[0]]), len(shares[DOMAINS[0]][0])
    figure, axes = pyplot.subplots(layers, 1, figsize=(9, 1.05 * layers + 0.6), layout="constrained", sharex=True)
    for layer, axis in enumerate(axes):
        table = [[100 * share for share in shares[domain][layer]] for domain in DOMAINS]
        axis.imshow(table, cmap="Oranges", vmin=0, vmax=40, aspect="auto")
        axis.set_yticks(range(len(DOMAINS)), DOMAINS)
        axis.set_ylabel(f"layer {layer}")
        axis.set_xticks(range(experts))
        for row, values in enumerate(table):
            for column, value in enumerate(values):
                axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if value > 25 else "black")
    axes[-1].set_xlabel("expert")
    figure.suptitle("per cent of each domain's choices that go to each expert (held-out text)", fontsize=10)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def information(shares):
    """Bits that the chosen expert tells about the domain, mean over layers, domains equally likely: 0 (nothing) to log2 3."""
    table = torch.tensor([shares[domain] for domain in DOMAINS])  # [domain, layer, expert]
    entropy = -(table * table.clamp_min(1e-12).log2()).sum(-1)
    mixed = table.mean(0)
    return (-(mixed * mixed.clamp_min(1e-12).log2()).sum(-1) - entropy.mean(0)).mean().item()


@torch.no_grad()
def sample(model, tokenizer, prompt, chat, count=90):
    torch.manual_seed(7)
    messages = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True) if chat else tokenizer(prompt).input_ids
    ids = torch.tensor([ids])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=True, temperature=0.6, top_p=0.9,
                         pad_token_id=model.config.eos_token_id)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)


def measured(work, losses, shares, model, tokenizer):
    """The generated part of the model card."""
    sizes = {kind: sum(p.numel() for p in Network(Shape() if kind == "moe" else Shape().dense()).parameters()) for kind in losses}
    last = {kind: records(kind, work)[-1] for kind in losses}
    lines = [MARK_BEGIN, "", "![held-out losses](losses.svg)", "", "| | mixture of experts | dense |", "|---|---|---|"]
    lines += [f"| held-out loss, {d} | {losses['moe'][d]:.3f} | {losses['dense'][d]:.3f} |" for d in DOMAINS]
    lines += [f"| {name} | " + " | ".join(show(kind) for kind in ("moe", "dense")) + " |" for name, show in (
        ("parameters", lambda kind: f"{sizes[kind] / 1e6:.2f} M"),
        ("tokens trained", lambda kind: f"{last[kind]['tokens'] / 1e6:.2f} M"),
        ("training time, minutes (of the clock; of one core)",
         lambda kind: f"{last[kind]['wall_s'] / 60:.0f}; {last[kind]['cpu_s'] / 60:.0f}"))]
    lines += ["", f"Losses are nats per token over {HELD_OUT_TOKENS:,} held-out tokens of each domain. The chosen expert tells",
              f"{information(shares):.2f} bits about the domain (of {torch.tensor(3.0).log2():.2f} possible, mean over the layers):", "",
              "![experts' shares](experts.svg)", "", "Texts, sampled at temperature 0.6, top-p 0.9 (the prompt in bold):", ""]
    for prompt, chat in SAMPLES:
        text = sample(model, tokenizer, prompt, chat).replace("```", "'''")
        lines += [f"**{'chat: ' if chat else ''}`{prompt}`**", "", "```", text.rstrip(), "```", ""]
    return "\n".join([*lines, MARK_END])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--model", type=Path, default=Path(__file__).parent)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    held_out = train.load_streams(arguments.work, "held_out")
    model = MixtralForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    losses, shares = {}, {}
    for kind in ("moe", "dense"):
        losses[kind], shares[kind] = train.evaluate(trained(kind, arguments.work), held_out, train.LONG_CONTEXT, HELD_OUT_TOKENS)
    for domain in DOMAINS:
        reference = reference_loss(model, held_out[domain], HELD_OUT_TOKENS)
        print(f"{domain:5}: {losses['moe'][domain]:.5f} (transformers {reference:.5f}), dense {losses['dense'][domain]:.5f}", flush=True)
        assert abs(reference - losses["moe"][domain]) < 1e-3, "the exported files are not what was trained"
    plot_losses(arguments.work, arguments.model / "losses.svg")
    plot_experts(shares["moe"], arguments.model / "experts.svg")
    texts = greedy_texts(model, tokenizer)
    (arguments.model / "greedy_texts.json").write_text(json.dumps(texts, indent=1) + "\n")
    card = arguments.model / "README.md"
    before, _, rest = card.read_text().partition(MARK_BEGIN)
    card.write_text(before + measured(arguments.work, losses, shares["moe"], model, tokenizer) + rest.partition(MARK_END)[2])


if __name__ == "__main__":
    main()
