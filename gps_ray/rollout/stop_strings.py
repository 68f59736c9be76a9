"""Texts that end a response, as ``Sampling.stop`` names them."""

from __future__ import annotations

from collections.abc import Sequence

from gps_ray.rollout.response_text import ResponseText

__all__ = ["StopStrings"]

# A token may be a special one without text, or a part of a character: so many more are read than the text has bytes.
_SPARE_TOKENS = 8


class StopStrings:
    """Looks for the texts in ``stop`` in what ``texts`` makes of tokens: where a verifier reads a tag, so do these."""

    def __init__(self, texts: ResponseText, stop: Sequence[str]) -> None:
        self._texts = texts
        self._stop = tuple(stop)
        self._num_tokens = max((len(text.encode()) for text in stop), default=0) + _SPARE_TOKENS

    def ended(self, responses: Sequence[Sequence[int]]) -> list[bool]:
        """Of responses that grew by one token each: has this token brought one of the texts?

        Only the end of each is decoded, the whole where that has a hit: tokens may read otherwise without those
        before them.
        """
        ends = self._texts.decode([response[-self._num_tokens :] for response in responses])
        return [
            self._has(end) and self._has(self._texts.decode([r])[0]) for end, r in zip(ends, responses, strict=True)
        ]

    def cut(self, text: str) -> str:
        """``text`` up to and with the first of the texts in it."""
        ends = [text.find(stop) + len(stop) for stop in self._stop if stop in text]
        return text[: min(ends)] if ends else text

    def _has(self, text: str) -> bool:
        return any(stop in text for stop in self._stop)
