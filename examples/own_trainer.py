"""A trainer of one's own with ``gps_ray.Selector``: plain REINFORCE in PyTorch, in one process.

    python -m examples.own_trainer

The policy is a small network that answers questions like "What is the last digit of 7 * 8 ?" with a digit. Like a
language model it has seen some answers before. It is then trained twice with the same number of rollouts, its prompts
chosen once by ``uniform`` and once by ``gps_fused``. All that the selector needs stands in three lines:
``Selector(...)``, ``next`` and ``update``. With a language model they are the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch

import gps_ray

NUM_PROMPTS, GROUP_SIZE = 16, 8  # a step: 16 prompts, 8 rollouts each
QUESTIONS: dict[str, Callable[[int, int], int]] = {
    "the larger of {} and {}": max,
    "the last digit of {} + {}": lambda a, b: (a + b) % 10,
    "the last digit of {} * {}": lambda a, b: (a * b) % 10,
}
ASKED = [(kind, a, b) for kind in range(len(QUESTIONS)) for a in range(10) for b in range(10)]
PROMPTS = [f"What is {list(QUESTIONS)[kind].format(a, b)} ?" for kind, a, b in ASKED]
ANSWERS = torch.tensor([list(QUESTIONS.values())[kind](a, b) for kind, a, b in ASKED])


def read_prompts() -> torch.Tensor:
    """[num_prompts, 23] float32: what the network reads of each prompt, one-hot."""
    kinds, first, second = torch.tensor(ASKED).T
    one_hot = torch.nn.functional.one_hot
    return torch.cat([one_hot(kinds, 3), one_hot(first, 10), one_hot(second, 10)], dim=1).float()


def make_policy(inputs: torch.Tensor) -> torch.nn.Module:
    """A network that was shown the answers a few times."""
    policy = torch.nn.Sequential(torch.nn.Linear(inputs.shape[1], 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(policy(inputs), ANSWERS).backward()
        optimizer.step()
    return policy


def train(selector_name: str, num_steps: int, seed: int = 0) -> dict[str, float]:
    """Mean success rate over all prompts in the end, and the share of useful groups on the way."""
    torch.set_num_threads(1)  # threads cost more than they bring here
    torch.manual_seed(seed)
    inputs = read_prompts()
    policy = make_policy(inputs)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)

    selector = gps_ray.Selector(PROMPTS, selector_name, group_size=GROUP_SIZE, seed=seed)
    num_useful = 0
    for _step in range(num_steps):
        rows = selector.next(NUM_PROMPTS)  # which prompts to roll out
        choice = torch.distributions.Categorical(logits=policy(inputs[rows]))
        responses = choice.sample((GROUP_SIZE,))  # [8, 16]
        rewards = (responses == ANSWERS[rows]).float()
        num_right = rewards.sum(0).int().numpy()
        selector.update(rows, num_right, GROUP_SIZE)  # what came of it

        advantages = rewards - rewards.mean(0)  # the group's mean is the baseline
        loss = -(advantages * choice.log_prob(responses)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        num_useful += int(gps_ray.is_useful(num_right, np.full(NUM_PROMPTS, GROUP_SIZE)).sum())
    with torch.no_grad():
        rates = policy(inputs).softmax(1)[torch.arange(len(PROMPTS)), ANSWERS]
    return {"success": float(rates.mean()), "useful": num_useful / (num_steps * NUM_PROMPTS)}


def main() -> None:
    parser = argparse.ArgumentParser(description="REINFORCE with prompts chosen by uniform and by gps_fused.")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in ("uniform", "gps_fused"):
        result = train(name, args.steps, args.seed)
        print(f"{name:9}  success {result['success']:.3f}  useful groups {result['useful']:.1%}", flush=True)


if __name__ == "__main__":
    main()
