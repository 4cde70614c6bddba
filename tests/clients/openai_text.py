"""What users of openai-python do with a server that generates text, each a law; the first argument says which.

The server's address is in POLYLORA_URL, and what transformers and PEFT computed in the JSON file POLYLORA_GOLDEN, as the fixtures
have it. The language model goes by the name `model`.
"""

import asyncio
import json
import os
import sys

import openai

from openai_laws import raises

URL = os.environ["POLYLORA_URL"] + "/v1"
BASE = "model"
ADAPTER = "qv_r4"

with open(os.environ["POLYLORA_GOLDEN"], encoding="utf-8") as file:
    GOLDEN = json.load(file)
PROMPTS, TOKENS = GOLDEN["prompts"], GOLDEN["greedy_tokens"]
# Conversations without tools, whose last word is the model's.
CHATS = [
    chat
    for chat in GOLDEN["chat"]
    if set(chat["kwargs"]) <= {"add_generation_prompt", "enable_thinking"} and chat["kwargs"]["add_generation_prompt"]
]
GREEDY = {"temperature": 0, "max_tokens": TOKENS, "extra_body": {"ignore_eos": True}}


def client():
    # Without retries an error is seen at once.
    return openai.OpenAI(base_url=URL, api_key="unused", max_retries=0, timeout=120)


def golden(model, index):
    return GOLDEN["runs"]["base" if model == BASE else model]["greedy"][index]["text"]


def complete(index, model=BASE, **more):
    return client().completions.create(model=model, prompt=PROMPTS[index]["text"], **(GREEDY | more))


def a_prompt_is_completed():
    for index, prompt in enumerate(PROMPTS):
        reply = complete(index)
        [choice] = reply.choices
        assert choice.text == golden(BASE, index), choice
        assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None), choice
        assert reply.object == "text_completion" and reply.model == BASE and reply.id.startswith("cmpl-")
        usage = reply.usage
        assert usage.prompt_tokens == len(prompt["input_ids"]) and usage.completion_tokens == TOKENS, usage
        assert usage.total_tokens == usage.prompt_tokens + TOKENS


def token_ids_are_completed():
    reply = client().completions.create(model=BASE, prompt=PROMPTS[1]["input_ids"], **GREEDY)
    assert reply.choices[0].text == golden(BASE, 1)


def several_prompts_are_completed_in_order():
    texts = [prompt["text"] for prompt in PROMPTS]
    reply = client().completions.create(model=BASE, prompt=texts, **GREEDY)
    assert [choice.text for choice in reply.choices] == [golden(BASE, index) for index in range(len(texts))]


def log_probabilities_come_with_the_tokens():
    reply = complete(0, logprobs=2)
    told = reply.choices[0].logprobs
    expected = GOLDEN["runs"]["base"]["greedy"][0]["logprobs"]
    assert len(told.tokens) == len(told.top_logprobs) == TOKENS
    assert max(abs(a - b) for a, b in zip(told.token_logprobs, expected)) < 2e-3


def a_conversation_is_answered():
    for chat in CHATS:
        kwargs = {name: value for name, value in chat["kwargs"].items() if name != "add_generation_prompt"}
        extra = {"return_token_ids": True, "chat_template_kwargs": kwargs}
        reply = client().chat.completions.create(
            model=BASE, messages=chat["messages"], temperature=0, max_completion_tokens=4, extra_body=extra
        )
        assert reply.object == "chat.completion" and reply.id.startswith("chatcmpl-")
        assert reply.prompt_token_ids == chat["input_ids"], reply
        message = reply.choices[0].message
        assert message.role == "assistant" and isinstance(message.content, str), message
        assert reply.usage.prompt_tokens == len(chat["input_ids"])


def a_completion_is_streamed():
    pieces = list(complete(0, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.text for piece in pieces for choice in piece.choices)
    assert text == golden(BASE, 0) and len(pieces) > 4, pieces
    *before, last = pieces
    assert last.choices == [] and last.usage.completion_tokens == TOKENS, last
    assert all(piece.usage is None for piece in before)
    assert before[-1].choices[0].finish_reason == "length"


def a_conversation_is_streamed():
    ask = dict(model=BASE, messages=CHATS[0]["messages"], temperature=0, max_tokens=12)
    whole = client().chat.completions.create(**ask)
    pieces = list(client().chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert pieces[0].choices[0].delta.role == "assistant", pieces[0]
    text = "".join(choice.delta.content or "" for piece in pieces for choice in piece.choices)
    assert text == whole.choices[0].message.content
    assert pieces[-1].choices == [] and pieces[-1].usage == whole.usage, pieces[-1]
    reasons = [choice.finish_reason for piece in pieces for choice in piece.choices if choice.finish_reason]
    assert reasons == [whole.choices[0].finish_reason]


def an_adapter_is_a_model():
    for index in range(len(PROMPTS)):
        reply = complete(index, model=ADAPTER)
        assert reply.choices[0].text == golden(ADAPTER, index) and reply.model == ADAPTER
    assert any(golden(ADAPTER, index) != golden(BASE, index) for index in range(len(PROMPTS)))
    pieces = complete(0, model=ADAPTER, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == golden(ADAPTER, 0)


def an_adapter_can_be_named_in_the_extra_body():
    extra = {"ignore_eos": True, "lora_request": {"lora_name": ADAPTER}}
    assert complete(0, extra_body=extra).choices[0].text == golden(ADAPTER, 0)


def models_are_listed():
    models = {model.id: model for model in client().models.list()}
    assert models[BASE].parent is None and models[BASE].max_model_len > 0, models
    assert models[ADAPTER].parent == BASE and models[ADAPTER].object == "model"
    assert client().models.retrieve(ADAPTER).root.endswith(ADAPTER)


def an_unknown_model_is_not_found():
    error = raises(openai.NotFoundError, 404, "model_not_found", lambda: complete(0, model="nobody"))
    assert error.param == "model" and "nobody" in error.body["message"], error
    raises(openai.NotFoundError, 404, "model_not_found", lambda: complete(0, model="nobody", stream=True))
    raises(openai.NotFoundError, 404, "model_not_found", lambda: client().models.retrieve("nobody"))


def what_cannot_be_is_a_bad_request():
    error = raises(openai.BadRequestError, 400, "context_length_exceeded", lambda: complete(0, max_tokens=10**6))
    assert "1000000" in error.body["message"], error
    for change in ({"temperature": -1}, {"top_p": 2}, {"n": 0}):
        error = raises(openai.BadRequestError, 400, "invalid_value", lambda: complete(0, **change))
        assert error.param in change, error
    chat = client().chat.completions.create
    raises(openai.BadRequestError, 400, "invalid_value", lambda: chat(model=BASE, messages=[]))


def embeddings_are_refused_with_what_can_be_asked():
    call = lambda: client().embeddings.create(model=BASE, input="a text")
    error = raises(openai.BadRequestError, 400, "model_not_supported", call)
    assert BASE in error.body["message"], error


def a_stream_can_be_left():
    with complete(0, stream=True) as stream:
        next(iter(stream))
    assert complete(1).choices[0].text == golden(BASE, 1)


def many_at_once_get_their_own():
    async def burst():
        async with openai.AsyncOpenAI(base_url=URL, api_key="unused", max_retries=0, timeout=120) as many:

            async def one(index):
                model, prompt = (BASE, ADAPTER)[index % 2], index % len(PROMPTS)
                create = many.completions.create
                reply = await create(model=model, prompt=PROMPTS[prompt]["text"], **GREEDY)
                assert reply.choices[0].text == golden(model, prompt), (model, prompt)

            await asyncio.gather(*(one(index) for index in range(16)))

    asyncio.run(burst())


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    # Whoever started this wants to see that the law was really tried.
    print("held:", sys.argv[1])
