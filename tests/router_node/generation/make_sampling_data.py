#!/usr/bin/env python3
"""Writes sampling_data.json: what transformers' logits processors and warpers make of random logits, for sampler_test.cpp.

    python3 -m venv V && V/bin/pip install torch==2.9.1 transformers==4.57.3 && V/bin/python make_sampling_data.py

Frequency and presence penalties, which transformers does not have, are OpenAI's formula. The same seeds give the same file.
"""
import json
import pathlib
import random

import torch
from transformers.generation import logits_process as hf

VOCABULARY = 48


def processed(logits, prompt, answer, settings):
    """The scores [V] after everything but the draw; -inf is cut."""
    ids = torch.tensor([prompt + answer])
    scores = torch.tensor([logits], dtype=torch.float64)
    if bias := settings.get("logit_bias"):
        scores = hf.SequenceBiasLogitsProcessor([[[token], value] for token, value in bias])(ids, scores)
    if (penalty := settings.get("repetition_penalty", 1.0)) != 1.0:
        scores = hf.RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)
    counts = torch.bincount(torch.tensor(answer, dtype=torch.int64), minlength=VOCABULARY)[None]
    scores = scores - settings.get("frequency_penalty", 0.0) * counts - settings.get("presence_penalty", 0.0) * (counts > 0)
    if settings["temperature"] == 0:
        return scores
    scores = hf.TemperatureLogitsWarper(settings["temperature"])(ids, scores)
    if top_k := settings.get("top_k"):
        scores = hf.TopKLogitsWarper(top_k)(ids, scores)
    if (top_p := settings.get("top_p", 1.0)) < 1.0:
        scores = hf.TopPLogitsWarper(top_p)(ids, scores)
    if min_p := settings.get("min_p"):
        scores = hf.MinPLogitsWarper(min_p)(ids, scores)
    return scores


def make_case(rng, settings):
    spread = rng.choice([1.0, 2.0, 4.0])
    logits = [round(rng.gauss(0, spread), 6) for _ in range(VOCABULARY)]
    assert len(set(logits)) == VOCABULARY, "equal logits have no order in the reference"
    prompt = [rng.randrange(VOCABULARY) for _ in range(12)]
    answer = [rng.randrange(VOCABULARY // 2) for _ in range(10)]
    raw = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), -1)
    scores = processed(logits, prompt, answer, settings)[0]
    probabilities = torch.softmax(scores, -1)
    return {
        "settings": settings,
        "logits": logits,
        "prompt": prompt,
        "answer": answer,
        "logprobs": [round(value, 7) for value in raw.tolist()],
        "kept": torch.isfinite(scores).nonzero()[:, 0].tolist(),
        "argmax": int(probabilities.argmax()),
        "probabilities": [round(value, 9) for value in probabilities.tolist()],
    }


def main():
    rng = random.Random(4)
    kinds = [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.5, "top_k": 1},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.7, "top_p": 0.3},
        {"temperature": 1.0, "top_p": 0.01},
        {"temperature": 1.0, "min_p": 0.1},
        {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
        {"temperature": 0.8, "top_k": 30, "top_p": 0.6},
        {"temperature": 1.0, "repetition_penalty": 1.3},
        {"temperature": 1.0, "repetition_penalty": 0.8},
        {"temperature": 1.0, "presence_penalty": 1.5},
        {"temperature": 1.0, "frequency_penalty": 0.7},
        {"temperature": 1.0, "presence_penalty": -1.0, "frequency_penalty": -0.5},
        {"temperature": 1.0, "logit_bias": [[3, 4.0], [7, -100.0], [20, 2.5]]},
        {"temperature": 0.9, "top_k": 25, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.1, "presence_penalty": 0.3,
         "frequency_penalty": 0.2, "logit_bias": [[1, 3.0], [2, -3.0]]},
        {"temperature": 0.0},
        {"temperature": 0.0, "repetition_penalty": 1.5, "frequency_penalty": 1.0},
        {"temperature": 0.0, "logit_bias": [[11, 100.0]]},
    ]
    cases = [make_case(rng, settings) for settings in kinds for _ in range(2)]
    document = {"transformers": "4.57.3", "torch": "2.9.1", "cases": cases}
    lines = ",\n".join(json.dumps(case) for case in cases)
    head = json.dumps({key: value for key, value in document.items() if key != "cases"})[:-1]
    pathlib.Path(__file__).with_name("sampling_data.json").write_text(f'{head}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
