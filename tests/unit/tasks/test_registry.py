import sys
from pathlib import Path

import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.tasks.interface import Verdict
from gps_ray.tasks.registry import GeneratedTask, load_generated_task, load_task


class Echo:
    name = "echo"

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        return (1.0, RolloutStatus.RIGHT) if response == prompt.answer else (0.0, RolloutStatus.WRONG)


class NeedsArguments(Echo):
    def __init__(self, path: str) -> None:
        self.path = path


class NotATask:
    name = "no verify"


@pytest.mark.parametrize("name", ["arithmetic", "countdown"])
def test_built_in_tasks_generate(name: str) -> None:
    task = load_task(name, {})
    assert task.name == name
    assert isinstance(task, GeneratedTask)
    assert load_generated_task(name, {}, "").vocabulary() == task.vocabulary()


def test_a_users_own_task() -> None:
    task = load_task(f"{__name__}:Echo", {})
    prompt = Prompt(prompt_id="p", text="say hello", answer="hello", task="echo")
    assert task.verify(prompt, "hello") == (1.0, RolloutStatus.RIGHT)
    with pytest.raises(ConfigError, match=r"data\.task: .*Echo.* generates no prompts .*set data\.pool_file"):
        load_generated_task(f"{__name__}:Echo", {}, "set data.pool_file")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cuontdown", "arithmetic, by_source, countdown"),
        ("no_such_package:Task", "no_such_package"),
        (f"{__name__}:Missing", "Missing"),
        (f"{__name__}:NeedsArguments", "task_options: NeedsArguments takes (path: str) -> None"),
        (f"{__name__}:NotATask", "not a task"),
        (f"{__name__}:Echo.name", "Echo.name"),
        ("json:dumps", "missing a required argument"),
        ("collections:Counter", "not a task"),
    ],
)
def test_what_is_no_task_is_refused(name: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task(name, {})
    message = str(caught.value)
    assert message.startswith("data.task")
    assert expected in message
    assert "\n" not in message


def test_built_in_tasks_have_their_own_section_and_no_options() -> None:
    with pytest.raises(ConfigError, match=r"^data\.task_options: countdown takes none, got level; .* data\.countdown$"):
        load_task("countdown", {"level": 3})


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("undefined_name", "cannot import .*NameError"),
        ("import sys; sys.exit(0)", "cannot import .*SystemExit"),
        ("def reward(response", "cannot import .*SyntaxError"),
        ("import no_such_library", "no_such_library"),
    ],
)
def test_a_module_that_fails_at_import_is_one_line(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_rewards.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_rewards", raising=False)
    with pytest.raises(ConfigError, match=rf"^data\.task: [^\n]*{said}[^\n]*$"):
        load_task("broken_rewards:reward", {})
