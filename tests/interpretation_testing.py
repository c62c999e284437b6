"""What the tests of interpret_features share: planted features, a judge that knows, a server."""

import contextlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from skdict.inspection import Completion
from skdict.inspection.interpretation.explainers._language_model import EXPLAIN
from skdict.inspection.interpretation.scorers import SCORERS as CLASSES

N_WORDS = 60
SCORERS = ("detection", "fuzzing", "intruder", "simulation")


def make_tokens(token_id, words=None):
    """Tokens of documents of equal length: ids (n_documents, length), one word for each id."""
    n_documents, length = token_id.shape
    if words is None:
        words = [f" w{i:03d}" for i in range(token_id.max() + 1)]
    words = np.array(words, dtype=object)
    lengths = np.vectorize(len)(words[token_id])
    end = np.cumsum(lengths, axis=1)
    return {
        "document": np.repeat(np.arange(n_documents), length),
        "position": np.tile(np.arange(length), n_documents),
        "token_id": token_id.ravel(),
        "token": words[token_id].ravel(),
        "start": (end - lengths).ravel(),
        "end": end.ravel(),
    }


def planted(n_features=6, *, n_documents=120, length=32, seed=0):
    """Features that are active on one word each, and nowhere else: codes and tokens."""
    rng = np.random.default_rng(seed)
    token_id = rng.integers(N_WORDS, size=(n_documents, length))
    tokens = make_tokens(token_id)
    is_word = tokens["token_id"][:, None] == np.arange(n_features)
    return is_word * rng.uniform(0.1, 3, is_word.shape), tokens


def kind_of(messages):
    systems = {EXPLAIN: "explain"} | {CLASSES[name].system: name for name in SCORERS}
    return systems[messages[0]["content"]]


def excerpts(messages):
    """The numbered lines of the last message, which is the question."""
    return re.findall(r"^\d+: ?(.*)$", messages[-1]["content"], re.MULTILINE)


def marked_words(text):
    return re.findall(r"« ?([^»]*)»", text)


def oracle(messages):
    """Explains a planted feature by its word, and answers by what an explanation says."""
    kind, lines = kind_of(messages), excerpts(messages)
    if kind == "explain":
        words = marked_words(messages[-1]["content"])
        return f"They have a word in common.\n\n**Explanation:** the word {words[0]}"
    if kind == "intruder":
        words = [set(marked_words(line)) for line in lines]
        common = max(set.union(*words), key=lambda word: sum(word in w for w in words))
        return str([1 + min((i for i, w in enumerate(words) if common not in w), default=0)])
    (word,) = re.findall("Active on: the word (.*)", messages[-1]["content"])
    if kind == "detection":
        return str([int(word in line.split()) for line in lines])
    if kind == "fuzzing":
        return "```json\n" + str([float(word in marked_words(line)) for line in lines]) + "\n```"
    return str([9 * (json.loads(line).strip() == word) for line in lines])


class Oracle:
    """The oracle as an object with log-probabilities, that remembers what it was asked."""

    name = "oracle"

    def __init__(self, answer=oracle):
        self.answer = answer
        self.asked = []

    def __call__(self, messages):
        self.asked.append(messages)
        return self.answer(messages)

    def logprobs(self, messages):
        text = self(messages)
        tokens = re.findall(r"\d|\D+", text)
        return Completion(text, logprobs=[(token, {token: 0.0}) for token in tokens])


def prompts(llm, kind):
    return [messages for messages in llm.asked if kind_of(messages) == kind]


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible server on loopback.

    ``behave(number, messages)`` gives a dict: "text" of the answer and its "finish_reason", or
    "status", "headers" and "body" of a reply that is none, and "delay" in seconds.
    """

    daemon_threads = True

    def __init__(self, behave):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave = behave
        self.lock = threading.Lock()
        self.requests, self.keys_seen = [], []
        self.n_at_once = self.most_at_once = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that gave up is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet per reply: a second one would wait for the first to be confirmed

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            number = len(server.requests)
            server.requests.append(request)
            server.keys_seen.append(self.headers["Authorization"])
            server.n_at_once += 1
            server.most_at_once = max(server.most_at_once, server.n_at_once)
        try:
            reply = {"status": 200, "delay": 0.0, **server.behave(number, request["messages"])}
            time.sleep(reply["delay"])
        finally:
            with server.lock:
                server.n_at_once -= 1
        body = reply.get("body")
        if body is None:
            completion = chat_completion(request, reply["text"], reply.get("usage", True))
            completion["choices"][0]["finish_reason"] = reply.get("finish_reason", "stop")
            body = json.dumps(completion)
        body = body.encode()
        self.send_response(reply["status"])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in reply.get("headers", {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def chat_completion(request, text, usage):
    """The JSON of an answer, as the API's reference has it."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
    }
    if request.get("logprobs"):
        entries = [
            {"token": token, "logprob": -0.01, "bytes": None, "top_logprobs": alternatives}
            for token, alternatives in (
                (token, [{"token": token, "logprob": -0.01, "bytes": None}])
                for token in re.findall(r"\d|\D+", text)
            )
        ]
        choice["logprobs"] = {"content": entries, "refusal": None}
    completion = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [choice],
    }
    if usage:
        completion["usage"] = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
    return completion


@contextlib.contextmanager
def serve(behave):
    server = Server(behave)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
