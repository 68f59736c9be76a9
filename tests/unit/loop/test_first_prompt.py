"""What a run that goes on reads must be what it read before."""

from dataclasses import asdict
from pathlib import Path

import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.base.json_files import write_json
from gps_ray.loop.plan import RenderedPrompt, check_first_prompt

READ = RenderedPrompt(text="<user> 1 + 2 \u00e9\n<assistant>", num_tokens=9)


def test_the_same_prompt_goes_on_and_so_does_a_run_that_kept_none(tmp_path: Path) -> None:
    write_json(tmp_path / "kept.json", asdict(READ))
    check_first_prompt(tmp_path / "kept.json", READ)
    check_first_prompt(tmp_path / "none.json", READ)
    for damaged in ("", "[]", "{", '{"text": 1}'):
        (tmp_path / "kept.json").write_text(damaged)
        check_first_prompt(tmp_path / "kept.json", READ)


@pytest.mark.parametrize(
    "now", [RenderedPrompt("<user> 1 + 2 \u00e9\n<assistant><think>", 10), RenderedPrompt(READ.text, 8)]
)
def test_a_changed_template_or_tokenizer_is_refused(tmp_path: Path, now: RenderedPrompt) -> None:
    write_json(tmp_path / "kept.json", asdict(READ))
    with pytest.raises(CheckpointError, match=r"^data\.chat_template: the run read its first prompt as ") as caught:
        check_first_prompt(tmp_path / "kept.json", now)
    assert "\n" not in str(caught.value)
