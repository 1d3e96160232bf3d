"""Clients in Python, used as their documentation shows. SERVER_URL is a server with the demo model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import anthropic
import litellm
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

URL = os.environ["SERVER_URL"]
QUESTION = "What is the capital of Norway?"
ANSWER = "The capital of Norway is Oslo."
MESSAGES = [{"role": "user", "content": QUESTION}]
BIN = Path(sys.executable).parent
AIDER = Path(__file__).with_name("aider") / "bin" / "aider"
DRAFTS = {"diffusion": {"drafts": "tokens", "min_interval_ms": 0}}


@pytest.fixture
def client():
    return openai.OpenAI(base_url=f"{URL}/v1", api_key="none")


def test_openai_chat(client):
    answer = client.chat.completions.create(model="demo", messages=MESSAGES)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("extra", [{}, DRAFTS], ids=["plain", "drafts"])
def test_openai_stream_as_the_tutorials_read_it(client, extra):
    stream = client.chat.completions.create(
        model="demo", messages=MESSAGES, stream=True, extra_body=extra
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == ANSWER


def test_openai_drafts_are_what_the_extension_says(client):
    stream = client.chat.completions.create(
        model="demo", messages=MESSAGES, stream=True, extra_body=DRAFTS
    )
    events = [chunk.model_extra["diffusion"]["event"] for chunk in stream if "diffusion" in chunk.model_extra]
    assert events[0] == "start" and events[-1] == "end"
    assert "draft" in events and "canvas" in events


def test_openai_stream_helper_with_usage(client):
    with client.chat.completions.stream(
        model="demo", messages=MESSAGES, stream_options={"include_usage": True}, extra_body=DRAFTS
    ) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == ANSWER
    assert answer.usage.completion_tokens > 0


def test_openai_seed_and_choices(client):
    story = [{"role": "user", "content": "Tell a story about Grace and a white owl."}]
    texts = [
        client.chat.completions.create(model="demo", messages=story, seed=7).choices[0].message.content
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


def test_openai_log_probabilities(client):
    answer = client.chat.completions.create(
        model="demo", messages=MESSAGES, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content
    assert "".join(token.token for token in content).startswith(ANSWER)
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in content)


def test_openai_json_schema(client):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="demo",
        messages=MESSAGES,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
    )
    value = json.loads(answer.choices[0].message.content)
    assert set(value) == {"name", "age"} and isinstance(value["age"], int)


def test_openai_old_completions(client):
    answer = client.completions.create(model="demo", prompt="The capital of", max_tokens=8)
    assert answer.usage.completion_tokens <= 8


def test_openai_responses(client):
    answer = client.responses.create(model="demo", input=QUESTION)
    assert answer.output_text == ANSWER
    with client.responses.stream(model="demo", input=QUESTION) as stream:
        types = [event.type for event in stream]
    assert types[0] == "response.created" and types[-1] == "response.completed"


def test_openai_responses_build_on_each_other(client):
    story = "Tell a story about Grace and a white owl."
    same = {"seed": 7, "cache_prompt": False}
    first = client.responses.create(model="demo", input=QUESTION, extra_body=same)
    second = client.responses.create(
        model="demo", input=story, previous_response_id=first.id, extra_body=same
    )
    assert second.previous_response_id == first.id
    asked, answered = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": first.output_text}
    conversation = [asked, answered, {"role": "user", "content": story}]
    whole = client.responses.create(model="demo", input=conversation, store=False, extra_body=same)
    assert second.output_text == whole.output_text
    assert second.usage.input_tokens == whole.usage.input_tokens
    with client.responses.stream(
        model="demo", input=story, previous_response_id=first.id, extra_body=same
    ) as stream:
        assert stream.get_final_response().output_text == whole.output_text

    assert client.responses.retrieve(second.id).output_text == second.output_text
    with client.responses.retrieve(second.id, stream=True) as events:
        assert [event.type for event in events][-1] == "response.completed"
    items = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [item.content[0].text for item in items] == [QUESTION, first.output_text, story]
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(second.id)
    assert client.responses.delete(second.id) is None
    for gone in [second.id, whole.id]:
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(gone)
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model="demo", input=story, previous_response_id=second.id)
    assert error.value.code == "previous_response_not_found"


def test_openai_errors_have_their_classes(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="demo", messages=MESSAGES, logit_bias={"5": 1})
    assert error.value.param == "logit_bias"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_anthropic():
    client = anthropic.Anthropic(base_url=URL, api_key="none")
    message = client.messages.create(model="demo", max_tokens=64, messages=MESSAGES)
    assert message.content[0].text == ANSWER
    assert message.stop_reason == "end_turn"
    with client.messages.stream(model="demo", max_tokens=64, messages=MESSAGES) as stream:
        assert "".join(stream.text_stream) == ANSWER
    assert client.messages.count_tokens(model="demo", messages=MESSAGES).input_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_litellm(stream):
    answer = litellm.completion(
        model="openai/demo", api_base=f"{URL}/v1", api_key="none", messages=MESSAGES, stream=stream
    )
    if stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in answer) == ANSWER
    else:
        assert answer.choices[0].message.content == ANSWER


def test_langchain():
    model = ChatOpenAI(base_url=f"{URL}/v1", api_key="none", model="demo")
    assert model.invoke(QUESTION).content == ANSWER
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == ANSWER


def test_pydantic_ai():
    provider = OpenAIProvider(base_url=f"{URL}/v1", api_key="none")
    agent = Agent(OpenAIChatModel("demo", provider=provider))
    assert agent.run_sync(QUESTION).output == ANSWER


def test_llm(tmp_path):
    models = [{"model_id": "demo", "model_name": "demo", "api_base": f"{URL}/v1"}]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    command = [BIN / "llm", "-m", "demo", QUESTION]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ANSWER


@pytest.mark.skipif(not AIDER.exists(), reason="aider cannot be had")
@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_aider(tmp_path, stream):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "OPENAI_API_KEY": "none",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    quiet = ["--no-pretty", "--no-show-model-warnings", "--no-check-update", "--analytics-disable"]
    command = [AIDER, "--model", "openai/demo", "--openai-api-base", f"{URL}/v1", "--chat-mode", "ask"]
    command += ["--yes-always", "--message", QUESTION, stream, *quiet]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert re.search(r"Tokens: \d+ sent, [1-9]\d* received", done.stdout), done.stdout
