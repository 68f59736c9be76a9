"""Has the policy fallen where it is not trained? How many slots of a batch are drawn evenly follows from the answer.

Slots drawn evenly from the pool are a probe that costs no rollout of its own. They fill one window after the other, of
``window_groups`` groups each. When a window closes it is compared with every earlier one, over the prompts that the
selector's score has not picked since that one began: both then looked at the same part of the pool, so what differs is
the policy. A group is the unit (its rollouts share a prompt), the test is Welch's, one-sided, at ``confidence`` over
all earlier windows together (Bonferroni):

    fallen     the lower bound of (earlier - newest pass rate) is above 0
    recovered  the bound is not, and more than half of what was lost is back; or the selector has come back to nearly
               all of those prompts, so that nothing can be said any more
    share      doubled with each window that is fallen, up to ``max_share``; less by ``min_share`` with each that is
               not, down to ``min_share``

Nothing but the config and the outcomes decides, so a resumed run goes on alike.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from gps_ray.base.errors import CheckpointError
from gps_ray.base.states import below, nested
from gps_ray.base.types import BoolArray, IntArray, State
from gps_ray.config import GuardConfig

__all__ = ["Fall", "ForgettingGuard", "Window", "fall"]

# Fewer groups on either side say nothing.
_MIN_GROUPS = 8
# Windows that the newest is compared with; at 4 even slots a step and 64 groups a window they reach back 1,000 steps.
_MAX_WINDOWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Groups of even slots: rows, num_right, num_tried [K], every one tried; ``first_step`` is that of the first."""

    first_step: int
    rows: IntArray
    num_right: IntArray
    num_tried: IntArray

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, kept: BoolArray) -> Window:
        return Window(
            first_step=self.first_step,
            rows=self.rows[kept],
            num_right=self.num_right[kept],
            num_tried=self.num_tried[kept],
        )

    def pass_rate(self) -> float:
        """Mean over groups."""
        return float(np.mean(self.num_right / self.num_tried))

    def variance_of_rate(self) -> float:
        """Of ``pass_rate``. Never less than rollouts that do not depend on their prompt would have, half a right and
        half a wrong one added, so that a window whose groups are all alike does not claim certainty."""
        rates = self.num_right / self.num_tried
        rate = (self.num_right.sum() + 0.5) / (self.num_tried.sum() + 1.0)
        least = rate * (1.0 - rate) / self.num_tried.mean()
        return float(max(np.var(rates, ddof=1), least) / len(rates))

    def state(self) -> State:
        return {
            "first_step": np.array(self.first_step),
            "rows": self.rows,
            "num_right": self.num_right,
            "num_tried": self.num_tried,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """By how much the pass rate of the same part of the pool fell: estimate with the ends of its interval."""

    value: float
    low: float
    high: float


def fall(before: Window, after: Window, confidence: float) -> Fall:
    """Welch's interval, each end at this one-sided confidence, in shares. Both have two groups at least."""
    first, second = before.variance_of_rate(), after.variance_of_rate()
    spread = first + second
    freedom = spread**2 / (first**2 / (len(before) - 1) + second**2 / (len(after) - 1))
    reach = float(stdtrit(freedom, confidence)) * spread**0.5
    value = before.pass_rate() - after.pass_rate()
    return Fall(value=value, low=value - reach, high=value + reach)


class ForgettingGuard:
    """``share`` of the next batch's slots is to be drawn evenly."""

    def __init__(self, config: GuardConfig, num_pool: int) -> None:
        self._config = config
        self._num_pool = num_pool
        self._last_scored = np.zeros(num_pool, dtype=np.int64)  # step; 0: never
        self._open = _empty()
        self._windows: deque[Window] = deque(maxlen=_MAX_WINDOWS)
        self._reference: Window | None = None  # what the newest windows are below, while they are
        self._lost = 0.0  # the fall when it was first seen
        self._fall: Fall | None = None  # the strongest of the last comparison
        self._share = config.min_share

    @property
    def share(self) -> float:
        return self._share

    @property
    def is_fallen(self) -> bool:
        return self._reference is not None

    def observe(self, step: int, even: Window, scored: IntArray) -> None:
        """Take in a step's groups: those of even slots, and the rows of the slots that were picked by score."""
        self._last_scored[scored] = step
        self._open = _joined(self._open, even.where(even.num_tried > 0))
        if len(self._open) >= self._config.window_groups:
            newest, self._open = self._open, _empty()
            self._judge(newest)
            self._windows.append(newest)

    def _judge(self, newest: Window) -> None:
        if self._reference is None:
            self._look_for_a_fall(newest)
        else:
            self._fall = self._since(self._reference, newest, self._config.confidence)
            if self._fall is None or (self._fall.low <= 0 and self._fall.value <= self._lost / 2):
                self._reference = None
        if self._reference is None:
            self._share = max(self._share - self._config.min_share, self._config.min_share)
        else:
            self._share = min(self._share * 2, self._config.max_share)

    def _look_for_a_fall(self, newest: Window) -> None:
        confidence = 1.0 - (1.0 - self._config.confidence) / max(len(self._windows), 1)
        falls = [(self._since(before, newest, confidence), before) for before in self._windows]
        known = [(found, before) for found, before in falls if found is not None]
        self._fall = None
        if known:
            self._fall, before = max(known, key=lambda pair: pair[0].low)
            if self._fall.low > 0:
                self._reference, self._lost = before, self._fall.value

    def _since(self, before: Window, after: Window, confidence: float) -> Fall | None:
        """Over the prompts that no score has picked since ``before`` began; None where those are too few."""
        first, second = (window.where(self._last_scored[window.rows] < before.first_step) for window in (before, after))
        return None if min(len(first), len(second)) < _MIN_GROUPS else fall(first, second, confidence)

    def metrics(self) -> dict[str, float]:
        figures = {"share": self._share, "is_fallen": float(self.is_fallen), "num_windows": float(len(self._windows))}
        if self._windows:
            figures["pass_rate"] = self._windows[-1].pass_rate()
        if self._fall is not None:
            figures |= {"fall": self._fall.value, "fall_low": self._fall.low, "fall_high": self._fall.high}
        return {f"guard_{name}": value for name, value in figures.items()}

    def state(self) -> State:
        fall_ = self._fall
        state = {
            "last_scored": self._last_scored.copy(),
            "share": np.array(self._share),
            "lost": np.array(self._lost),
            "fall": np.array([] if fall_ is None else [fall_.value, fall_.low, fall_.high], dtype=np.float64),
            "sizes": np.array([len(window) for window in self._windows], dtype=np.int64),
            "first_steps": np.array([window.first_step for window in self._windows], dtype=np.int64),
            **nested("closed", _joined(*self._windows).state()),
            **nested("open", self._open.state()),
        }
        return state if self._reference is None else state | nested("reference", self._reference.state())

    def load_state(self, state: State) -> None:
        """Raises CheckpointError where the pool was another."""
        if state["last_scored"].shape != (self._num_pool,):
            raise CheckpointError(
                f"guard state: expected a pool of {self._num_pool} prompts, got {len(state['last_scored'])}; resume "
                "with the data the run was started with (data.*)"
            )
        self._last_scored = state["last_scored"].astype(np.int64)
        self._share, self._lost = float(state["share"]), float(state["lost"])
        value = state["fall"].tolist()
        self._fall = Fall(value=value[0], low=value[1], high=value[2]) if value else None
        self._open = _window(below("open", state))
        reference = below("reference", state)
        self._reference = _window(reference) if reference else None
        closed, ends = _window(below("closed", state)), np.cumsum(state["sizes"])
        self._windows.clear()
        for first_step, size, end in zip(state["first_steps"], state["sizes"], ends, strict=True):
            part = np.arange(end - size, end)
            self._windows.append(
                Window(
                    first_step=int(first_step),
                    rows=closed.rows[part],
                    num_right=closed.num_right[part],
                    num_tried=closed.num_tried[part],
                )
            )


def _window(state: State) -> Window:
    return Window(
        first_step=int(state["first_step"]),
        rows=state["rows"].astype(np.int64),
        num_right=state["num_right"].astype(np.int64),
        num_tried=state["num_tried"].astype(np.int64),
    )


def _empty() -> Window:
    none = np.zeros(0, dtype=np.int64)
    return Window(first_step=0, rows=none, num_right=none, num_tried=none)


def _joined(*windows: Window) -> Window:
    """One after the other, from the first step of the first that holds a group."""
    return Window(
        first_step=next((window.first_step for window in windows if len(window)), 0),
        rows=np.concatenate([_empty().rows, *(window.rows for window in windows)]),
        num_right=np.concatenate([_empty().rows, *(window.num_right for window in windows)]),
        num_tried=np.concatenate([_empty().rows, *(window.num_tried for window in windows)]),
    )
