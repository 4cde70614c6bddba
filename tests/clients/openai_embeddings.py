"""What users of openai-python do with an embeddings server, each a law; the first argument says which.

The server's address is in POLYLORA_URL, its key (where it has one) in POLYLORA_KEY, and what sentence-transformers and
PEFT computed in the JSON file POLYLORA_GOLDEN: sentences, ids, and embeddings by model.
"""

import asyncio
import json
import os
import sys

import openai

from openai_laws import raises

URL = os.environ["POLYLORA_URL"] + "/v1"
KEY = os.environ.get("POLYLORA_KEY", "unused")
BASE = "all-MiniLM-L6-v2"
TOLERANCE = 2e-4

with open(os.environ["POLYLORA_GOLDEN"], encoding="utf-8") as file:
    GOLDEN = json.load(file)
SENTENCES, IDS = GOLDEN["sentences"], GOLDEN["ids"]


def client(key=KEY):
    # Without retries an error is seen at once.
    return openai.OpenAI(base_url=URL, api_key=key, max_retries=0, timeout=120)


def check(reply, model, indices):
    """Every embedding of the reply is the golden one of the sentence with that index."""
    assert [item.index for item in reply.data] == list(range(len(indices))), reply.data
    for item, index in zip(reply.data, indices):
        expected = GOLDEN["embeddings"][model][index]
        assert len(item.embedding) == len(expected), len(item.embedding)
        error = max(abs(a - b) for a, b in zip(item.embedding, expected))
        assert error <= TOLERANCE, f"{model}, sentence {index}: {error}"


def a_text_is_embedded():
    reply = client().embeddings.create(model=BASE, input=SENTENCES[0])
    check(reply, "base", [0])
    assert reply.object == "list" and reply.model == BASE
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == len(IDS[0])


def a_list_of_texts_is_embedded_in_order():
    check(client().embeddings.create(model=BASE, input=SENTENCES), "base", range(len(SENTENCES)))


def token_ids_are_embedded():
    check(client().embeddings.create(model=BASE, input=IDS[2]), "base", [2])


def lists_of_token_ids_are_embedded():
    check(client().embeddings.create(model="qv_r8", input=IDS), "qv_r8", range(len(IDS)))


def numbers_can_be_asked_for():
    reply = client().embeddings.create(model=BASE, input=SENTENCES[:4], encoding_format="float")
    check(reply, "base", range(4))


def base64_is_a_string_for_who_asks_for_it():
    import array
    import base64

    reply = client().embeddings.create(model=BASE, input=SENTENCES[0], encoding_format="base64")
    values = array.array("f", base64.b64decode(reply.data[0].embedding))
    if sys.byteorder == "big":
        values.byteswap()
    reply.data[0].embedding = values.tolist()
    check(reply, "base", [0])


def dimensions_cut_and_normalise():
    reply = client().embeddings.create(model="qv_r8", input=SENTENCES[:4], dimensions=128)
    for item, index in zip(reply.data, range(4)):
        cut = GOLDEN["embeddings"]["qv_r8"][index][:128]
        norm = sum(v * v for v in cut) ** 0.5
        assert len(item.embedding) == 128
        assert max(abs(a - b / norm) for a, b in zip(item.embedding, cut)) <= 5 * TOLERANCE


def an_adapter_is_a_model():
    reply = client().embeddings.create(model="qv_r8", input=SENTENCES)
    check(reply, "qv_r8", range(len(SENTENCES)))
    assert reply.model == "qv_r8"


def an_adapter_can_be_named_in_the_extra_body():
    for extra in ({"lora_name": "qv_r8"}, {"lora_request": {"lora_name": "qv_r8"}}):
        check(client().embeddings.create(model=BASE, input=SENTENCES[:3], extra_body=extra), "qv_r8", range(3))


def models_are_listed():
    models = {model.id: model for model in client().models.list()}
    assert BASE in models and "qv_r8" in models, models
    assert models["qv_r8"].object == "model" and models["qv_r8"].parent == BASE
    assert models[BASE].parent is None


def a_model_is_retrieved():
    assert client().models.retrieve("qv_r8").root.endswith("qv_r8")
    assert client().models.retrieve("sentence-transformers/all-MiniLM-L6-v2").parent is None
    raises(openai.NotFoundError, 404, "model_not_found", lambda: client().models.retrieve("law"))


def an_unknown_model_is_not_found():
    create = client().embeddings.create
    error = raises(openai.NotFoundError, 404, "model_not_found", lambda: create(model="law", input="a text"))
    assert error.param == "model" and "law" in error.body["message"], error
    extra = {"lora_name": "law"}
    raises(openai.NotFoundError, 404, "model_not_found", lambda: create(model=BASE, input="a", extra_body=extra))


def an_empty_input_is_a_bad_request():
    create = client().embeddings.create
    raises(openai.BadRequestError, 400, "empty_input", lambda: create(model=BASE, input=""))
    raises(openai.BadRequestError, 400, "empty_input", lambda: create(model=BASE, input=["a", ""]))
    raises(openai.BadRequestError, 400, "no_inputs", lambda: create(model=BASE, input=[]))
    raises(openai.BadRequestError, 400, "too_many_inputs", lambda: create(model=BASE, input=["a"] * 2049))
    large = dict(model=BASE, input="a", dimensions=385)
    raises(openai.BadRequestError, 400, "dimensions_out_of_range", lambda: create(**large))


def a_body_over_the_limit_is_said():
    call = lambda: client().embeddings.create(model=BASE, input="word " * 2_000_000)
    raises(openai.APIStatusError, 413, "payload_too_large", call)


def many_at_once_get_their_own():
    async def burst():
        async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120) as many:

            async def one(index):
                model = ("base", "qv_r8")[index % 2]
                name = BASE if model == "base" else model
                check(await many.embeddings.create(model=name, input=SENTENCES[index]), model, [index])

            await asyncio.gather(*(one(index) for index in range(len(SENTENCES))))

    asyncio.run(burst())


def a_key_is_needed_and_enough():
    check(client().embeddings.create(model=BASE, input=SENTENCES[0]), "base", [0])
    for call in (
        lambda: client("sk-another").embeddings.create(model=BASE, input="a text"),
        lambda: client("sk-another").models.list(),
    ):
        raises(openai.AuthenticationError, 401, "invalid_api_key", call)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    # Whoever started this wants to see that the law was really tried.
    print("held:", sys.argv[1])
