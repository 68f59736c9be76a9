"""The garbage collector rests while the tests are collected: importing torch makes objects by the million, all of which
stay, and to look through them again and again is a third of the time."""

from __future__ import annotations

import gc

gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported is looked at no more, in no test either
    gc.enable()
