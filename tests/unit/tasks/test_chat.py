"""What the policy reads of a prompt: roles, templates, special tokens, the date."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from gps_ray.base.errors import ConfigError, ModelError
from gps_ray.base.types import Message, Prompt
from gps_ray.config import DataConfig, EmbeddedModelConfig
from gps_ray.loop.plan import chat_format
from gps_ray.model import load_tokenizer, make_embedded_model
from gps_ray.tasks.chat import DEFAULT_CHAT, ChatFormat
from gps_ray.tasks.chat_check import check_chat

WORDS = [*map(str, range(20)), "+", "=", "system", "user", "assistant", "today", "think", "2026-11-26", "sum"]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% if think %} think{% endif %}{% endif %}"
)
FEW_SHOT = (
    Message(role="system", content="sum"),
    Message(role="user", content="1 + 2"),
    Message(role="assistant", content="3"),
    Message(role="user", content="4 + 5"),
)
TODAY = datetime.date(2026, 11, 26)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    make_embedded_model(EmbeddedModelConfig(num_layers=1), WORDS, tmp_path)
    return load_tokenizer(tmp_path)


def test_every_role_keeps_its_turn_and_the_assistants_is_opened(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE
    tokens = DEFAULT_CHAT.encode(tokenizer, FEW_SHOT)
    assert tokens.dtype == "int32"
    assert tokenizer.decode(tokens) == "system sum user 1 + 2 assistant 3 user 4 + 5 assistant"


def test_a_prompt_of_text_is_one_user_turn(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE
    prompt = Prompt(prompt_id="a", text="1 + 2", answer="3", task="sum")
    assert DEFAULT_CHAT.render(tokenizer, prompt.chat) == "user 1 + 2 assistant"


def test_without_a_template_it_is_plain_text(tokenizer: Any) -> None:
    assert DEFAULT_CHAT.render(tokenizer, FEW_SHOT[:2]) == "sum\n\n1 + 2"


def test_a_template_and_arguments_of_the_users_own_come_before_the_models(tokenizer: Any) -> None:
    tokenizer.chat_template = "19"
    own = ChatFormat(template=TEMPLATE, arguments={"think": True})
    assert own.render(tokenizer, FEW_SHOT[-1:]) == "user 4 + 5 assistant think"


@pytest.mark.parametrize("ask", ["{{ strftime_now('%Y-%m-%d') }}", "{{ date_string }}"])
def test_a_template_that_asks_for_today_is_told_the_runs_date(tokenizer: Any, ask: str) -> None:
    told = ChatFormat(template="today " + ask, date=TODAY).render(tokenizer, FEW_SHOT[-1:])
    assert told in ("today 2026-11-26", "today 26 Nov 2026")


def _with_specials(tokenizer: Any) -> None:
    eos, pad = (tokenizer.eos_token, tokenizer.eos_token_id), (tokenizer.pad_token, tokenizer.pad_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{pad[0]} $A {eos[0]}", pair=None, special_tokens=[eos, pad]
    )


def test_nothing_stands_behind_a_prompt_that_the_tokenizer_would_add(tokenizer: Any) -> None:
    _with_specials(tokenizer)
    assert tokenizer.encode("4 + 5")[-1] == tokenizer.eos_token_id
    tokens = DEFAULT_CHAT.encode(tokenizer, FEW_SHOT[-1:]).tolist()
    assert tokens == [tokenizer.pad_token_id, *tokenizer.encode("4 + 5", add_special_tokens=False)]


def test_no_special_token_stands_beside_those_of_a_template(tokenizer: Any) -> None:
    _with_specials(tokenizer)
    tokenizer.chat_template = "<pad> " + TEMPLATE
    tokens = DEFAULT_CHAT.encode(tokenizer, FEW_SHOT[-1:]).tolist()
    assert tokens.count(tokenizer.pad_token_id) == 1
    assert tokenizer.eos_token_id not in tokens


def test_a_template_that_refuses_a_role_is_one_line(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('no system turn') }}"
    with pytest.raises(ModelError, match=r"^data\.chat_template: .*system, user messages.*no system turn") as caught:
        DEFAULT_CHAT.encode(tokenizer, FEW_SHOT[:2])
    assert "\n" not in str(caught.value)


def test_the_config_names_the_template(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "own.jinja").write_text(TEMPLATE)
    data = DataConfig(chat_template=tmp_path / "own.jinja", chat_template_kwargs={"think": True})
    assert chat_format(data, TODAY).render(tokenizer, FEW_SHOT[-1:]) == "user 4 + 5 assistant think"
    with pytest.raises(ConfigError, match=r"^data\.chat_template: cannot read .*missing"):
        chat_format(DataConfig(chat_template=tmp_path / "missing"), TODAY)


def test_a_date_of_the_users_own_comes_before_the_runs(tokenizer: Any) -> None:
    own = ChatFormat(template="today {{ date_string }}", arguments={"date_string": "2026-11-26"}, date=TODAY)
    assert own.render(tokenizer, FEW_SHOT[-1:]) == "today 2026-11-26"


def test_an_argument_that_the_template_does_not_read_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.chat_template_kwargs: there is no template that would read think"):
        check_chat(tokenizer, ChatFormat(arguments={"think": True}))
    tokenizer.chat_template = TEMPLATE
    check_chat(tokenizer, ChatFormat(arguments={"think": True}))
    with pytest.raises(ConfigError, match=r"data\.chat_template_kwargs: the chat template reads no thinking, so"):
        check_chat(tokenizer, ChatFormat(arguments={"think": True, "thinking": True}))


@pytest.mark.parametrize(
    ("template", "is_said"),
    [
        ("{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}", True),
        ("{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}<assistant>", False),
        (TEMPLATE, False),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", False),
    ],
)
def test_a_template_that_does_not_open_the_assistants_turn_is_said(
    tokenizer: Any, caplog: pytest.LogCaptureFixture, template: str, is_said: bool
) -> None:
    check_chat(tokenizer, ChatFormat(template=template))
    assert ("has to write '<assistant>' itself" in caplog.text) is is_said
